import { readFileSync } from "node:fs";

/** What the limits depend on, besides the configuration. */
export interface SharedTables {
  /** net.netfilter.nf_conntrack_max; null where connection tracking is not there (yet). */
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

/** This machine's. */
export const sharedTables: SharedTables = {
  conntrackMax: () => Number(read("/proc/sys/net/netfilter/nf_conntrack_max")) || null,
  subordinateUids: () => read("/etc/subuid"),
};
