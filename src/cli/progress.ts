import { every, monotonicMs } from "../platform/clock.ts";
import { linesTo, type Progress } from "../service/progress.ts";
import { painter, plain, type Style, takesColours, wrap } from "./terminal.ts";

/** The steps of a long operation on a terminal: each with the time that it takes, redrawn each second. */

/** Columns of the time and the space behind it. */
const TIME_COLUMNS = 9;
const INDENT = " ".repeat(TIME_COLUMNS);
const TICK_MS = 1_000;
/** Moves the cursor to the first column and erases the line (ECMA-48, EL). */
const ANEW = "\r\u001b[K";

export interface TerminalOptions {
  readonly write: (text: string) => void;
  /** The terminal's width at this moment. */
  readonly columns: () => number;
  readonly paint: (style: Style, text: string) => string;
  readonly monotonicMs: () => number;
  readonly every: (intervalMs: number, run: () => void) => () => void;
}

const seconds = (ms: number, digits: number): string =>
  `${(ms / 1_000).toFixed(digits)} s`.padStart(TIME_COLUMNS - 2).padEnd(TIME_COLUMNS);

/** @returns a progress that draws on a terminal. One step at a time; what is said meanwhile stands above it. */
export function terminalProgress(options: TerminalOptions): Progress {
  const { write, columns, paint } = options;
  /** The step that is at work; null between two. */
  let current: { readonly what: string; readonly startMs: number } | null = null;
  const elapsedMs = ({ startMs }: { startMs: number }) => options.monotonicMs() - startMs;
  const draw = () => {
    if (current === null) return;
    const ms = elapsedMs(current);
    const text = `${ms < TICK_MS ? INDENT : seconds(ms, 0)}${current.what}`;
    // In one row, which can be erased: a longer text would be broken by the terminal.
    const room = columns() - 1;
    write(`${ANEW}${text.length <= room ? text : `${text.slice(0, room - 1)}…`}`);
  };
  const lines = (text: string, indent: string) =>
    text.split("\n").flatMap((line) => wrap(plain(line), columns() - 1, indent));
  return {
    say(line) {
      const text = lines(line, "  ").join("\n");
      write(`${ANEW}${/^(?:warning|note):/.test(line) ? paint("yellow", text) : text}\n`);
      draw();
    },
    async step(what, work) {
      const step = { what: plain(what), startMs: options.monotonicMs() };
      current = step;
      draw();
      const stop = options.every(TICK_MS, draw);
      let failed = false;
      try {
        return await work();
      } catch (error) {
        failed = true;
        throw error;
      } finally {
        stop();
        current = null;
        const [first = "", ...rest] = wrap(step.what, columns() - TIME_COLUMNS - 1);
        const time = seconds(elapsedMs(step), 1);
        const text = [first, ...rest.map((line) => `${INDENT}${line}`)].join("\n");
        write(`${ANEW}${paint("dim", time)}${failed ? paint("red", `${text}: failed`) : text}\n`);
      }
    },
  };
}

/** For this process: on a terminal that can erase a line as {@link terminalProgress}, else line by line. */
export function progress(
  stream: NodeJS.WriteStream = process.stdout,
  variables: Readonly<Record<string, string | undefined>> = process.env,
): Progress {
  if (stream.isTTY !== true || variables["TERM"] === "dumb")
    return linesTo((line) => console.log(line.split("\n").map(plain).join("\n")));
  return terminalProgress({
    write: (text) => stream.write(text),
    columns: () => Math.max(40, stream.columns ?? 80),
    paint: painter(takesColours(stream, variables)),
    monotonicMs,
    every,
  });
}
