/** What a scenario is, and how it reports. */
import type { Cell } from "../cells.ts";
import type { Machine } from "./machine.ts";

/** One sentence that was tried, how often, and how often it did not hold. */
export interface Check {
  readonly what: string;
  readonly tries: number;
  readonly failures: number;
  /** What was found: where it failed, the text; else figures that are worth a line. */
  readonly found?: string;
}

export interface Context {
  readonly cell: Cell;
  readonly machine: Machine;
  /** How many requests of each caller the long parts make. */
  readonly requests: number;
  /** How many flushes of each kind. */
  readonly flushes: number;
  /** Records one that was counted. */
  count(what: string, tries: number, failures: number, found?: string): void;
  /** Records one that holds or does not. */
  holds(what: string, holds: boolean, found?: string): void;
}

/** Scenarios run in an order on one machine: the first installs, the last removes. */
export interface Scenario {
  readonly name: string;
  run(context: Context): Promise<void>;
}
