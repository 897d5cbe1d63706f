import { DEFAULT_LISTEN } from "../config/schema.ts";
import { METADATA } from "../firewall/addresses.ts";
import { limitsGuard } from "../firewall/limits/operations.ts";
import { type Changer, changedByText, RuleEvents } from "../firewall/nftables/events.ts";
import type { FirewallSpec } from "../firewall/types.ts";
import { systemWall, wallGuard } from "../firewall/wall/wall.ts";
import { standardError } from "../platform/bounded-output.ts";
import { monotonicMs, sleep, systemClock } from "../platform/clock.ts";
import { notifySystemd, waitReadable } from "../platform/libc.ts";
import { lockProgram } from "../platform/memory-lock.ts";
import { FIREWALL_HEALTH_FILE, readFirewallHealth } from "../telemetry/firewall-health.ts";
import { asSpec, NodeRules } from "./node-rules.ts";
import { JOURNAL, LAST_FIREWALL } from "./paths.ts";
import { CHECK_INTERVAL_MS, FirewallWatch } from "./repair.ts";
import { RoutingChanges } from "./routing-changes.ts";
import { readJson, writeWhole } from "./state-files.ts";
import { recover } from "./transaction.ts";

/** The watch on this machine: real iptables, real files, the journal. */

const output = standardError((lines) => `${lines} lines of this log are lost, because nobody read it\n`);

/** journald takes the number in angle brackets as the priority (sd-daemon(3)). */
const log = (level: "notice" | "error", message: string): void => {
  const prefix = process.env["JOURNAL_STREAM"] === undefined ? "" : level === "error" ? "<3>" : "<5>";
  output.write(`${prefix}${message.replaceAll("\n", " ")}\n`);
};

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

const complaints = new Map<string, string>();

/** Does what may fail, and says once of each failure what it was: a full disk would be told of every two seconds. */
function attempt(what: string, action: () => void): void {
  try {
    action();
    complaints.delete(what);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (complaints.get(what) !== message) log("error", `${what}: ${message}`);
    complaints.set(what, message);
  }
}

function openWatch(configPath: string | undefined, changedBy: () => string = () => "") {
  const rules = new NodeRules({
    configPath,
    clock: systemClock,
    log,
    guards: [wallGuard(systemWall()), limitsGuard()],
  });
  const watch = new FirewallWatch<FirewallSpec>({
    rules,
    clock: systemClock,
    remembered: asSpec(readJson(LAST_FIREWALL)) ?? CLOSED,
    // A full disk must not keep the rules from being put right.
    remember: (spec) =>
      attempt(`cannot remember the rules in ${LAST_FIREWALL}`, () => writeWhole(LAST_FIREWALL, spec, 0o600)),
    before: readFirewallHealth(),
    report: (health) =>
      attempt(`cannot write ${FIREWALL_HEALTH_FILE}`, () => writeWhole(FIREWALL_HEALTH_FILE, health, 0o644)),
    log,
    changedBy,
  });
  return { rules, watch };
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
  return openWatch(configPath).watch.round();
}

/**
 * Watches until it is told to stop. Tells systemd that it is ready when it has seen the rules in order.
 *
 * @returns false where the first look fails.
 */
export async function watchRules(configPath: string | undefined): Promise<boolean> {
  const changes = listenForChanges();
  const routing = RoutingChanges.listen();
  const { rules, watch } = openWatch(configPath, () => {
    // Whoever made the change that was just found may not have been heard of yet.
    changes?.take();
    return changedByText(changes?.by ?? []);
  });
  if (!(await watch.round())) return false;
  notifySystemd("READY=1");
  lockProgram();
  let stopped = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      stopped = true;
    });
  }
  const descriptors = [changes, routing].flatMap((one) => (one === null ? [] : [one.descriptor]));
  let checkAtMs = monotonicMs();
  let fedAtMs = Number.NEGATIVE_INFINITY;
  while (!stopped) {
    // Short where something is under way, which goes on only between two waits.
    const readable = waitReadable(descriptors, watch.busy || rules.waiting ? BUSY_WAIT_MS : IDLE_WAIT_MS);
    const ruled = readable && changes?.take() === true;
    const routed = readable && routing !== null ? routing.take() : "nothing";
    // Readable and yet nothing there: messages were lost (ENOBUFS).
    const heard = ruled || routed === "ours" || (readable && routed === "nothing");
    // In this order: what is known comes back before anything else is done, and before anybody is asked.
    if (heard || rules.waiting) watch.glance();
    // What has been looked at, and was right, is not to be blamed for what comes after it.
    if (!rules.waiting) changes?.forget();
    if (monotonicMs() - fedAtMs >= CHECK_INTERVAL_MS) {
      notifySystemd("WATCHDOG=1");
      fedAtMs = monotonicMs();
    }
    if (monotonicMs() >= checkAtMs || (heard && !watch.busy)) {
      const startedMs = monotonicMs();
      // A node on which something changes rules all the time is not slowed down by comparing them all the time.
      checkAtMs = startedMs + CHECK_INTERVAL_MS;
      void watch.check().then(() => {
        checkAtMs = Math.max(checkAtMs, monotonicMs() + REST_FACTOR * (monotonicMs() - startedMs));
      });
      void watch.refresh();
    }
    await sleep(1);
  }
  await Promise.race([watch.checked(), sleep(MOST_AT_STOP_MS)]);
  return true;
}

/** iptables may wait for another program's lock, and systemd waits 90 s for this process to end. */
const MOST_AT_STOP_MS = 10_000;
const IDLE_WAIT_MS = 50;
const BUSY_WAIT_MS = 2;
const REST_FACTOR = 5;

/** Changes to nf_tables as they happen, with who made those since the last glance; null where the kernel tells of none. */
function listenForChanges() {
  let events: RuleEvents;
  try {
    events = new RuleEvents(process.pid);
  } catch {
    return null;
  }
  let by: readonly Changer[] = [];
  return {
    descriptor: events.descriptor,
    get by(): readonly Changer[] {
      return by;
    },
    /** Whether there was anything. */
    take(): boolean {
      const taken = events.take();
      by = [...by, ...taken.by];
      return taken.changed;
    },
    forget(): void {
      by = [];
    },
  };
}
