import type { ConsolaInstance } from "consola";
import type { Config } from "../config/schema.ts";
import { standardError } from "../platform/bounded-output.ts";
import { systemClock } from "../platform/clock.ts";

/**
 * The log: one line for each event, on standard error; JSON under systemd, and a readable form on a terminal. Its input must
 * hold no secret, and no text that a user can choose, except the name of their own account.
 */

/** The fields of an event. */
export type Fields = Readonly<
  Record<
    string,
    string | number | boolean | null | undefined | readonly string[] | Readonly<Record<string, string>>
  >
>;

export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];
/** The priorities of syslog(3), as journald takes them. */
export const PRIORITIES: Record<Level, string> = { debug: "7", info: "6", warn: "4", error: "3" };

/** The part of the log that the audit uses. */
export interface Recorder {
  /** Writes a line, whatever `log.level` is. */
  record(level: Level, message: string, fields: Fields): void;
  /** The line as JSON, without its end, for where it is sent in another way. */
  line(level: Level, message: string, fields: Fields): string;
}

/** The log, and what else is written to standard error with it. */
export interface LogOutput extends Log, Recorder {
  /** The number of lines that are lost because nobody read them. */
  lostLines(): number;
}

/** @param settings the configuration's `log`. */
export function createLog(settings: Config["log"]): LogOutput {
  const underSystemd = process.env["JOURNAL_STREAM"] !== undefined;
  const pretty =
    settings.format === "pretty" || (settings.format === "auto" && !underSystemd && process.stderr.isTTY);
  const { write, lostLines } = pretty ? prettyWriter() : jsonWriter(underSystemd);
  const lowest = LEVELS.indexOf(settings.level);
  // Decided once, because an event of each request is logged at the level debug.
  const at = (level: Level) =>
    LEVELS.indexOf(level) < lowest
      ? () => {}
      : (message: string, fields: Fields = {}): void => write(level, message, fields);
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    record: write,
    line: jsonLine,
    lostLines,
  };
}

interface Writer {
  write(level: Level, message: string, fields: Fields): void;
  lostLines(): number;
}

/**
 * Characters that JSON leaves as they are, and that a terminal or a reader may act on: DEL and the C1 controls (ECMA-48), line and
 * paragraph separators, and those that change the direction of text (Unicode Standard Annex #9).
 */
const ACTIVE = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** One line of JSON: an event's time, level and message, then its fields. */
function jsonLine(level: Level, message: string, fields: Fields): string {
  const line = JSON.stringify({
    time: new Date(systemClock.now()).toISOString(),
    level,
    message,
    ...fields,
  });
  return line.replaceAll(ACTIVE, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The message after lines could not be written for a while: journald was stopped, or the pipe was not read. */
const LOST = "lines of this log are lost, because nobody read it";

function jsonWriter(underSystemd: boolean): Writer {
  // The prefix tells journald the priority (sd-daemon(3)).
  const lineOf: Recorder["line"] = (level, message, fields) =>
    `${underSystemd ? `<${PRIORITIES[level]}>` : ""}${jsonLine(level, message, fields)}\n`;
  const output = standardError((lines) => lineOf("warn", LOST, { lines }));
  return {
    write: (level, message, fields) => output.write(lineOf(level, message, fields)),
    lostLines: () => output.lostLines,
  };
}

function prettyWriter(): Writer {
  const output = standardError((lines) => `${LOST}: ${lines}\n`);
  // consola uses only the `write` of a stream (consola/src/utils/stream.ts).
  const stream = { write: (text: string) => output.write(text) } as unknown as NodeJS.WriteStream;
  // Loaded only for a terminal, so that a start under systemd does not wait for it.
  const { createConsola } = require("consola") as typeof import("consola");
  const consola: ConsolaInstance = createConsola({ level: 5, stdout: stream, stderr: stream });
  const write: Writer["write"] = (level, message, fields) => {
    const facts = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(
        ([name, value]) =>
          `${name}=${typeof value === "string" && /^[\w.:/@+-]+$/.test(value) ? value : JSON.stringify(value)}`,
      );
    consola[level]([message, ...facts].join("  ").replaceAll(ACTIVE, "\ufffd"));
  };
  return { write, lostLines: () => output.lostLines };
}
