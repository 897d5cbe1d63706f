import { CLOSED_TABLE, closedRulesIn } from "./closed-state.ts";
import { findProgram, runProgram } from "./iptables.ts";
import { FAMILIES, type Family } from "./types.ts";

/** The edge to the closed state of this node (closed-state.ts): whether it is there, and its end. By ip(8). */

const flag: Record<Family, string> = { ipv4: "-4", ipv6: "-6" };

async function rulesAtZero(ip: string, family: Family): Promise<string> {
  const { exitCode, stdout } = await runProgram([ip, flag[family], "-N", "rule", "list", "pref", "0"]);
  return exitCode === 0 ? stdout : "";
}

/** Whether users are kept from the metadata service by the closed state. */
export async function isClosed(): Promise<boolean> {
  const ip = findProgram("ip");
  if (ip === null) return false;
  const found = await Promise.all(FAMILIES.map((family) => rulesAtZero(ip, family)));
  return found.some((listing) => closedRulesIn(listing).length > 0);
}

/** Takes the closed state away; safe to repeat. The table `local` stays where it is: at preference 0. */
export async function endClosedState(): Promise<void> {
  const ip = findProgram("ip");
  if (ip === null) return;
  for (const family of FAMILIES) {
    for (const words of closedRulesIn(await rulesAtZero(ip, family))) {
      await runProgram([ip, flag[family], "rule", "del", "pref", "0", ...words]);
    }
    await runProgram([ip, flag[family], "route", "flush", "table", String(CLOSED_TABLE)]);
  }
}
