import { readFileSync } from "node:fs";

/** Where the unit that watches over the firewall says how things stand. */
const FIREWALL_STATE = "/run/imdsproxy/firewall.json";

/** What it said last; null where it said nothing. */
export interface FirewallState {
  readonly repairs: number;
  readonly healthy: boolean;
  /** Seconds since the epoch. */
  readonly lastCheck: number;
}

/** Reads it anew. */
export function firewallState(): FirewallState | null {
  try {
    const { repairs, healthy, lastCheck } = JSON.parse(readFileSync(FIREWALL_STATE, "utf8")) as Record<
      string,
      unknown
    >;
    const seconds = typeof lastCheck === "number" ? lastCheck : Date.parse(String(lastCheck)) / 1000;
    return { repairs: Number(repairs), healthy: healthy === true, lastCheck: seconds };
  } catch {
    return null;
  }
}
