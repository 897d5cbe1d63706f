import type { Iptables } from "./operations.ts";
import { type OriginalEntry, originalEntry, redirectOfEveryone } from "./original.ts";
import { type Deviation, planTable } from "./plan.ts";
import { emptyTable, wantedTable } from "./rules.ts";
import type { FirewallSpec, RuleSet, TableName } from "./types.ts";

/** What is in place, compared with what should be. */
export interface FirewallStatus {
  /** True where every table that is available holds exactly what it should, entered first, and the other backend nothing of ours. */
  readonly healthy: boolean;
  /** What is missing, changed or not first. */
  readonly deviations: readonly Deviation[];
  /** The HyperPod agent's entry. */
  readonly original: OriginalEntry;
  /** Remarks that do not make the rules unhealthy. */
  readonly notes: readonly string[];
}

const TABLES: readonly TableName[] = ["filter", "nat"];

/** Compares the rules with what they should be; changes nothing. */
export async function firewallStatus(iptables: Iptables, spec: FirewallSpec): Promise<FirewallStatus> {
  const access = await iptables.access();
  const notes = access.map(({ problem }) => problem).filter((problem) => problem !== null);
  const deviations: Deviation[] = [];
  let ipv4: RuleSet = new Map();
  for (const { family, problem } of access) {
    if (problem !== null) continue;
    const current = await iptables.read(family);
    if (family === "ipv4") ipv4 = current;
    for (const table of TABLES) {
      deviations.push(...planTable(current, wantedTable(spec, family, table)).deviations);
    }
  }
  const original = originalEntry(ipv4);
  const other = await iptables.otherBackend();
  for (const { family, problem } of (await other?.access()) ?? []) {
    const theirs = problem === null ? await other?.read(family).catch(() => null) : null;
    if (!theirs) continue;
    for (const table of TABLES) {
      deviations.push(
        ...planTable(theirs, emptyTable(family, table)).deviations.map((deviation) => ({
          ...deviation,
          detail: `in the other iptables (legacy beside nft, or the reverse): ${deviation.detail}`,
        })),
      );
    }
    const copies = family === "ipv4" ? originalEntry(theirs).copies : 0;
    if (copies > 0) {
      deviations.push({
        family,
        table: "nat",
        chain: "OUTPUT",
        kind: "leftover",
        detail:
          "in the other iptables (legacy beside nft, or the reverse): the HyperPod agent's entry is there",
      });
    } else if (family === "ipv4" && redirectOfEveryone(theirs) !== null) {
      notes.push(
        "the other iptables (legacy beside nft, or the reverse) also redirects the metadata address: " +
          "whose redirect comes first is the kernel's choice; use the same one for both",
      );
    }
  }
  return { healthy: deviations.length === 0, deviations, original, notes };
}
