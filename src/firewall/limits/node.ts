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

/**
 * Whether an nft needs plain keys, asked once: later there may be no free process, and the table must not change because of that.
 *
 * @param version the output of `nft --version`, empty where there is no nft; null where it could not be run, and is asked again.
 */
export function askedOnce(version: () => string | null): () => boolean {
  let known: boolean | null = null;
  return () => {
    if (known !== null) return known;
    const said = version();
    if (said === null) return false;
    known = needsPlainKeys(said);
    return known;
  };
}

function nftVersion(): string | null {
  const options = { encoding: "utf8", timeout: 5_000, env: { PATH: SYSTEM_PATH } } as const;
  const { error, stdout } = spawnSync("nft", ["--version"], options);
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return error === undefined ? stdout : code === "ENOENT" ? "" : null;
}

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
  nftNeedsPlainKeys: askedOnce(nftVersion),
};
