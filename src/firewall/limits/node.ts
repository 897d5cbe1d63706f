import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { SYSTEM_PATH } from "../../platform/programs.ts";

/** subuid(5) */
export const SUBORDINATE_UIDS = "/etc/subuid";

/** The facts of the node on which the limits depend. */
export interface SharedTables {
  /** net.netfilter.nf_conntrack_max; null where connection tracking is not loaded. */
  conntrackMax(): number | null;
  /** The text of subuid(5); empty where there is none. */
  subordinateUids(): string;
  /** Whether this node's nft(8) cannot list a set that has a part of type integer in its key; false where there is none. */
  nftNeedsPlainKeys?(): boolean;
}

/** The first nft that is known to list such sets; 0.9.8 is known not to. */
const FIRST_GOOD: readonly number[] = [1, 0, 6];

/** @param version what `nft --version` prints: `nftables v0.9.8 (E.D.S.)`. */
export function needsPlainKeys(version: string): boolean {
  const found = /\bv(\d+)\.(\d+)\.(\d+)/.exec(version)?.slice(1).map(Number);
  if (found === undefined) return false;
  const at = FIRST_GOOD.findIndex((part, i) => part !== found[i]);
  return at !== -1 && (found[at] ?? 0) < (FIRST_GOOD[at] ?? 0);
}

let plainKeys: boolean | undefined;

const read = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

/** Reads these facts on this machine. */
export const sharedTables: SharedTables = {
  conntrackMax: () => Number(read("/proc/sys/net/netfilter/nf_conntrack_max")) || null,
  subordinateUids: () => read(SUBORDINATE_UIDS),
  nftNeedsPlainKeys() {
    // Asked once in a process: later there may be no free process, and the table must not change because of that.
    plainKeys ??= needsPlainKeys(
      spawnSync("nft", ["--version"], { encoding: "utf8", timeout: 5_000, env: { PATH: SYSTEM_PATH } })
        .stdout ?? "",
    );
    return plainKeys;
  },
};
