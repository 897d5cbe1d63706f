import { type ConsolaInstance, createConsola } from "consola";
import type { Config } from "../config/schema.ts";
import { standardError } from "../platform/bounded-output.ts";
import { systemClock } from "../platform/clock.ts";

/**
 * The log: one line an event, to standard error. As JSON under systemd, for journald and whoever reads it; pretty on a
 * terminal. What is given to it must hold no secret; users choose none of its text but their own account's name.
 */

/** Facts of an event: plain values alone. */
export type Fields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  debug(message: string, fields?: Fields): void;
  info(message: string, fields?: Fields): void;
  warn(message: string, fields?: Fields): void;
  error(message: string, fields?: Fields): void;
}

const LEVELS = ["debug", "info", "warn", "error"] as const;
type Level = (typeof LEVELS)[number];
/** sd-daemon(3): a line's priority, which journald takes off. */
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

/** What is said when lines could not be written for a while: journald was stopped, or nobody read the pipe. */
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
  // Of a stream, consola uses `write` alone (consola/src/utils/stream.ts).
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
