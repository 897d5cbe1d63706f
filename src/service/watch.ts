import { chmodSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { DEFAULT_CONFIG_PATH, loadConfig } from "../config/load.ts";
import { DEFAULT_LISTEN } from "../config/schema.ts";
import { METADATA } from "../firewall/addresses.ts";
import { systemIptables } from "../firewall/iptables.ts";
import { apply } from "../firewall/operations.ts";
import { buildFirewallSpec } from "../firewall/spec.ts";
import { firewallStatus } from "../firewall/status.ts";
import type { FirewallSpec } from "../firewall/types.ts";
import { endpointText } from "../identity/endpoint.ts";
import { NETLINK_NETFILTER } from "../identity/netlink/conntrack.ts";
import { systemClock } from "../platform/clock.ts";
import { NetlinkSocket, notifySystemd } from "../platform/libc.ts";
import { FIREWALL_STATUS, JOURNAL, LAST_FIREWALL } from "./paths.ts";
import { CHECK_INTERVAL_MS, type FirewallHealth, FirewallWatch } from "./repair.ts";
import { recover } from "./transaction.ts";

/** The watch on this machine: real iptables, real files, the journal. */

/** A configuration's file and the node, as what the rules are built from. */
const rulesOf = (configPath: string | undefined) => {
  const iptables = systemIptables();
  const path = configPath ?? DEFAULT_CONFIG_PATH;
  let saidOfUpstream = "";
  let saidOfExempt = "";
  return {
    async resolve(): Promise<FirewallSpec> {
      const { spec, upstream, unknownExempt } = await buildFirewallSpec(loadConfig({ path: configPath }));
      const ofUpstream = `upstream ${endpointText(upstream.upstream)}: ${upstream.reason}`;
      if (ofUpstream !== saidOfUpstream) log("notice", ofUpstream);
      saidOfUpstream = ofUpstream;
      const ofExempt = unknownExempt?.problem ?? "";
      if (ofExempt !== "" && ofExempt !== saidOfExempt)
        log("error", `not exempt until they are known: ${ofExempt}`);
      saidOfExempt = ofExempt;
      return spec;
    },
    configurationStamp(): string {
      const found = statSync(path, { throwIfNoEntry: false });
      return found === undefined ? "none" : `${found.ino}:${found.size}:${found.mtimeMs}`;
    },
    async deviations(spec: FirewallSpec): Promise<readonly string[]> {
      const { deviations } = await firewallStatus(iptables, spec);
      return deviations.map(({ family, table, detail }) => `${family} ${table}: ${detail}`);
    },
    async apply(spec: FirewallSpec): Promise<void> {
      await apply(iptables, spec);
    },
  };
};

/** journald takes the number in angle brackets as the priority (sd-daemon(3)). */
const log = (level: "notice" | "error", message: string): void => {
  const prefix = process.env["JOURNAL_STREAM"] === undefined ? "" : level === "error" ? "<3>" : "<5>";
  process.stderr.write(`${prefix}${message.replaceAll("\n", " ")}\n`);
};

function writeWhole(path: string, value: unknown, mode: number): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, `${JSON.stringify(value)}\n`, { mode: 0o600 });
  // Whatever the umask is.
  chmodSync(`${path}.new`, mode);
  renameSync(`${path}.new`, path);
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return null;
  }
}

/** Only root writes these files; still, what an older version wrote may look otherwise. */
function asHealth(value: unknown): FirewallHealth | null {
  const health = value as FirewallHealth | null;
  return typeof health?.repairs === "number" ? health : null;
}

function asSpec(value: unknown): FirewallSpec | null {
  const spec = value as FirewallSpec | null;
  const endpoint = (e: unknown) =>
    typeof (e as { address?: unknown } | undefined)?.address === "string" &&
    typeof (e as { port?: unknown } | undefined)?.port === "number";
  const good =
    endpoint(spec?.listen) &&
    endpoint(spec?.upstream) &&
    Array.isArray(spec?.exemptUids) &&
    ["leave", "reject", "proxy"].includes(spec.containers);
  return good ? spec : null;
}

/**
 * What holds when nothing is known of the node: nobody but root, and every other caller sent to a port where nobody
 * answers. Better no credentials than the instance role's.
 */
const CLOSED: FirewallSpec = {
  upstream: METADATA.ipv4,
  listen: DEFAULT_LISTEN,
  exemptUids: [0],
  containers: "leave",
};

function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    log("error", `${what}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function openWatch(configPath: string | undefined): FirewallWatch<FirewallSpec> {
  return new FirewallWatch<FirewallSpec>({
    rules: rulesOf(configPath),
    clock: systemClock,
    remembered: asSpec(readJson(LAST_FIREWALL)) ?? CLOSED,
    // A full disk must not keep the rules from being put right.
    remember: (spec) =>
      attempt(`cannot remember the rules in ${LAST_FIREWALL}`, () => writeWhole(LAST_FIREWALL, spec, 0o600)),
    before: asHealth(readJson(FIREWALL_STATUS)),
    report: (health) =>
      attempt(`cannot write ${FIREWALL_STATUS}`, () => writeWhole(FIREWALL_STATUS, health, 0o644)),
    log,
  });
}

/**
 * Brings the rules at boot: from the configuration; where that cannot be read, as they were last; where nothing is
 * remembered, closed. Before that it finishes a setup that a power cut interrupted.
 *
 * @returns whether the rules are in place.
 */
export async function bringRules(configPath: string | undefined): Promise<boolean> {
  attempt("cannot finish an interrupted setup", () => {
    for (const path of recover(JOURNAL)) log("notice", `finished an interrupted setup: ${path}`);
  });
  return openWatch(configPath).round();
}

/**
 * Watches until it is told to stop. Tells systemd that it is ready when it has seen the rules in order.
 *
 * @returns false where the first look fails.
 */
export async function watchRules(configPath: string | undefined): Promise<boolean> {
  const watch = openWatch(configPath);
  if (!(await watch.round())) return false;
  notifySystemd("READY=1");
  let stopped = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      stopped = true;
    });
  }
  const changes = ruleChanges();
  let tookMs = 0;
  while (!stopped) {
    notifySystemd("WATCHDOG=1");
    // A node on which something changes rules all the time is not slowed down by looking at them all the time.
    const restMs = Math.max(POLL_MS, REST_FACTOR * tookMs);
    for (let waitedMs = 0; waitedMs < CHECK_INTERVAL_MS && !stopped; waitedMs += POLL_MS) {
      await Bun.sleep(POLL_MS);
      if (waitedMs + POLL_MS >= restMs && changes()) break;
    }
    const startedMs = performance.now();
    if (!stopped) await watch.round();
    tookMs = performance.now() - startedMs;
  }
  return true;
}

const POLL_MS = 100;
const REST_FACTOR = 5;
/** NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h) is 7: the kernel tells it of every change to an nftables rule set. */
const NFTABLES_GROUP = 1 << (7 - 1);
/** More than that at once are read the next time. */
const MOST_MESSAGES = 1_000;

/**
 * Says whether nftables rules have changed since it was last asked; iptables-nft makes nftables rules. Of iptables-legacy
 * the kernel tells nobody: there, only the interval helps.
 */
function ruleChanges(): () => boolean {
  let socket: NetlinkSocket;
  try {
    socket = new NetlinkSocket(NETLINK_NETFILTER, "changes of rules", NFTABLES_GROUP);
  } catch {
    return () => false;
  }
  return () => {
    let heard = 0;
    while (heard < MOST_MESSAGES && socket.receive() !== null) heard++;
    return heard > 0;
  };
}
