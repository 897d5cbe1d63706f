import { readFileSync } from "node:fs";

/** The facts of the node on which the limits depend. */
export interface SharedTables {
  /** net.netfilter.nf_conntrack_max; null where connection tracking is not loaded. */
  conntrackMax(): number | null;
  /** The text of subuid(5); empty where there is none. */
  subordinateUids(): string;
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
  subordinateUids: () => read("/etc/subuid"),
};
