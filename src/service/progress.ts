/** How the progress of an operation is shown to a person. */
export interface Progress {
  /** Prints one line. */
  readonly say: (line: string) => void;
  /** Carries out one step, after it has printed what the step is. */
  readonly step: <T>(what: string, work: () => Promise<T>) => Promise<T>;
}

/** One line for each step, in order and without times: for files and pipes, where a printed line cannot be redrawn. */
export const linesTo = (print: (line: string) => void): Progress => ({
  say: print,
  step(what, work) {
    print(what);
    return work();
  },
});

/** Prints nothing. */
export const SILENT: Progress = linesTo(() => {});
