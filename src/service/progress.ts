/** How a person is told what an operation does. */
export interface Progress {
  /** Tells one line. */
  readonly say: (line: string) => void;
  /** Does one step: tells what it is before it begins. */
  readonly step: <T>(what: string, work: () => Promise<T>) => Promise<T>;
}

/** A line for each thing that is told, in its order, and no time: for files and pipes, whose lines stay as they are. */
export const linesTo = (print: (line: string) => void): Progress => ({
  say: print,
  step(what, work) {
    print(what);
    return work();
  },
});

/** Tells nothing. */
export const SILENT: Progress = linesTo(() => {});
