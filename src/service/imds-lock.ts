import { readFileSync } from "node:fs";
import type { Endpoint } from "../identity/endpoint.ts";
import { systemClock } from "../platform/clock.ts";
import { isLocked } from "../upstream/imds-lock.ts";
import { Upstream } from "../upstream/upstream.ts";
import { type RunCommand, runCommand } from "./command.ts";
import { IP } from "./paths.ts";
import { digestOfKey, type Probe } from "./probe.ts";

/**
 * A node whose metadata address systemd has locked (`systemd.imds.network=locked`, upstream/imds-lock.ts). Users get their role,
 * because the second wall's routes come before the lock. The kernel refuses root and the exempt accounts before any redirect,
 * as it does without imdsproxy: the administrator has set the lock, and imdsproxy does not lift it.
 */

/** The routing table for sockets with the lock's mark (systemd, src/imds/85-imds-early.network). */
const TABLE = String(0x7fff0815);

/** How the facts of the node are read. */
export interface LockFacts {
  readonly isLocked: () => boolean;
  readonly run: RunCommand;
  /** The text of a sysctl's file; null where there is none. */
  readonly sysctl: (path: string) => string | null;
}

const NODE: LockFacts = {
  isLocked,
  run: runCommand,
  sysctl(path) {
    try {
      return readFileSync(`/proc/sys/${path}`, "utf8").trim();
    } catch {
      return null;
    }
  },
};

/** Warnings for root before anything is changed; none where the address is not locked. */
export async function lockWarnings(facts: LockFacts = NODE): Promise<readonly string[]> {
  if (!facts.isLocked()) return [];
  const warnings = [
    "systemd.imds.network=locked: the kernel refuses root and the exempt accounts the way to 169.254.169.254, before any redirect; users get " +
      "their role, and the proxy reaches its upstream. To give root the instance role, boot with systemd.imds.network=unlocked",
  ];
  const strict = await strictInterfaces(facts);
  if (strict.length > 0) {
    warnings.push(
      `systemd.imds.network=locked does not work with rp_filter, which drops each answer of the metadata service (${strict.join(", ")}): nobody gets ` +
        "credentials, as systemd-imdsd gets no metadata; set it to 0, or boot with systemd.imds.network=unlocked",
    );
  }
  return warnings;
}

/**
 * The interfaces of the lock's own table that have rp_filter on, each as the sysctl that says so. To check an answer's source, the
 * kernel looks up the route back to it without the mark, finds the route of type `prohibit`, and drops the answer. The loose mode (2)
 * does so like the strict mode (1) (__fib_validate_source in net/ipv4/fib_frontend.c).
 */
async function strictInterfaces({ run, sysctl }: LockFacts): Promise<readonly string[]> {
  const { stdout } = await run([IP, "-o", "route", "show", "table", TABLE]);
  const interfaces = new Set([...stdout.matchAll(/ dev (\S+)/g)].map(([, name]) => name ?? ""));
  return [...interfaces].flatMap((name) =>
    ["all", name].flatMap((one) => {
      const value = sysctl(`net/ipv4/conf/${one}/rp_filter`);
      return value === null || value === "0" ? [] : [`net.ipv4.conf.${one}.rp_filter = ${value}`];
    }),
  );
}

/** Asks the upstream for the instance role, with the lock's mark, which root's own requests lack: to compare with what a user gets. */
export async function instanceProbe(endpoint: Endpoint): Promise<Probe> {
  const upstream = new Upstream({ endpoint, clock: systemClock });
  const nothing: Probe = {
    token: 0,
    list: { status: 0, text: "" },
    credentials: { status: 0, code: null, digest: null },
    forbidden: null,
    direct: [],
  };
  try {
    const role = await upstream.instanceRoleName();
    const { accessKeyId } = await upstream.credentials();
    return {
      ...nothing,
      list: { status: 200, text: role ?? "" },
      credentials: { status: 200, code: "Success", digest: digestOfKey(accessKeyId) },
    };
  } catch {
    return nothing;
  } finally {
    upstream.close();
  }
}
