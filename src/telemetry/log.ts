import { type ConsolaInstance, createConsola } from "consola";
import type { Config } from "../config/schema.ts";
import { standardError } from "../platform/bounded-output.ts";
import { systemClock } from "../platform/clock.ts";

/**
 * The log: one line for each event, on standard error; JSON under systemd, and a readable form on a terminal. Its input must
 * hold no secret, and no text that a user can choose, except the name of their own account.
 */

/** The fields of an event. */
export type Fields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

const LEVELS = ["debug", "info", "warn", "error"] as const;
type Level = (typeof LEVELS)[number];
/** The prefix of a line that tells journald its priority (sd-daemon(3)). */
const PRIORITIES: Record<Level, string> = { debug: "<7>", info: "<6>", warn: "<4>", error: "<3>" };

/** @param settings the configuration's `log`. */
export function createLog(settings: Config["log"]): Log {
  const underSystemd = process.env["JOURNAL_STREAM"] !== undefined;
  const pretty =
    settings.format === "pretty" || (settings.format === "auto" && !underSystemd && process.stderr.isTTY);
  const write = pretty ? prettyWriter() : jsonWriter(underSystemd);
  const lowest = LEVELS.indexOf(settings.level);
  const at =
    (level: Level) =>
    (message: string, fields: Fields = {}): void => {
      if (LEVELS.indexOf(level) >= lowest) write(level, message, fields);
    };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

type Writer = (level: Level, message: string, fields: Fields) => void;

/** The message after lines could not be written for a while: journald was stopped, or the pipe was not read. */
const LOST = "lines of this log are lost, because nobody read it";

function jsonWriter(underSystemd: boolean): Writer {
  const lineOf = (level: Level, message: string, fields: Fields): string => {
    const line = JSON.stringify({
      time: new Date(systemClock.now()).toISOString(),
      level,
      message,
      ...fields,
    });
    return `${underSystemd ? PRIORITIES[level] : ""}${line}\n`;
  };
  const output = standardError((lines) => lineOf("warn", LOST, { lines }));
  return (level, message, fields) => output.write(lineOf(level, message, fields));
}

function prettyWriter(): Writer {
  const output = standardError((lines) => `${LOST}: ${lines}\n`);
  // consola uses only the `write` of a stream (consola/src/utils/stream.ts).
  const stream = { write: (text: string) => output.write(text) } as unknown as NodeJS.WriteStream;
  const consola: ConsolaInstance = createConsola({ level: 5, stdout: stream, stderr: stream });
  return (level, message, fields) => {
    const facts = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(
        ([name, value]) =>
          `${name}=${typeof value === "string" && /^[\w.:/@+-]+$/.test(value) ? value : JSON.stringify(value)}`,
      );
    consola[level]([message, ...facts].join("  "));
  };
}
