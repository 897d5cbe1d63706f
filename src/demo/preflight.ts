import { statSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";

/** Programs that the simulated node needs, each with its package (Debian's name, then Amazon Linux's). */
const TOOLS: readonly (readonly [program: string, packages: string])[] = [
  ["unshare", "util-linux"],
  ["nsenter", "util-linux"],
  ["setpriv", "util-linux"],
  ["mount", "mount or util-linux"],
  ["ip", "iproute2 or iproute"],
  ["iptables", "iptables or iptables-nft"],
  ["ip6tables", "iptables or iptables-nft"],
  ["iptables-restore", "iptables or iptables-nft"],
];

/** PATH of a clean root shell. */
const SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Facts about this machine on which the demo depends. */
export interface Ground {
  readonly uid: number;
  /** The programs of TOOLS that are not there. */
  readonly missing: readonly string[];
  /** This executable, or null where the program runs from source. */
  readonly executable: string | null;
  /** Its permission bits. */
  readonly executableMode: number;
}

/** Gathers the facts. */
export function surveyGround(executable: string | null): Ground {
  return {
    uid: process.getuid?.() ?? -1,
    missing: TOOLS.map(([program]) => program).filter(
      (program) => Bun.which(program, { PATH: SEARCH_PATH }) === null,
    ),
    executable,
    executableMode: executable === null ? 0 : statSync(executable).mode & 0o777,
  };
}

/** Why the demo cannot run on this machine, or null. Pure. */
export function groundProblem(ground: Ground): ImdsProxyError | null {
  if (ground.missing.length > 0) {
    const packages = TOOLS.filter(([program]) => ground.missing.includes(program)).map(([, names]) => names);
    return new ImdsProxyError(
      "missing",
      `the demo builds a node out of namespaces and iptables rules; not found here: ${ground.missing.join(", ")}`,
      `install the packages ${[...new Set(packages)].join(", ")}; on Debian and Ubuntu, "make demo" does it`,
    );
  }
  if (ground.uid !== 0) {
    return new ImdsProxyError(
      "permission",
      `the demo builds a node out of namespaces, users and iptables rules, which needs root; this is uid ${ground.uid}`,
      "run: sudo imdsproxy demo\nIt changes nothing of this machine: the node is gone when the demo ends.",
    );
  }
  if (ground.executable === null) {
    return new ImdsProxyError(
      "missing",
      "the demo starts its own executable on the node, and this runs from source",
      "run: make demo",
    );
  }
  if ((ground.executableMode & 0o005) !== 0o005) {
    return new ImdsProxyError(
      "unsafe",
      `the demo's users have to run ${ground.executable}, whose mode is ${ground.executableMode.toString(8)}`,
      `run: chmod 755 ${ground.executable}`,
    );
  }
  return null;
}
