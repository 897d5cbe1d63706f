import { DEFAULT_LISTEN } from "../config/schema.ts";
import { METADATA } from "../firewall/addresses.ts";
import { limitsGuard } from "../firewall/limits/operations.ts";
import { type Changer, changedByText, RuleEvents } from "../firewall/nftables/events.ts";
import type { FirewallSpec } from "../firewall/types.ts";
import { systemWall, wallGuard } from "../firewall/wall/wall.ts";
import { standardError } from "../platform/bounded-output.ts";
import { monotonicMs, sleep, systemClock } from "../platform/clock.ts";
import { lockProgram } from "../platform/memory-lock.ts";
import { waitReadable } from "../platform/netlink-socket.ts";
import { notifySystemd } from "../platform/systemd-notify.ts";
import { FIREWALL_HEALTH_FILE, readFirewallHealth } from "../telemetry/firewall-health.ts";
import { asSpec } from "./kept-spec.ts";
import { NodeRules } from "./node-rules.ts";
import { LAST_FIREWALL } from "./paths.ts";
import { CHECK_INTERVAL_MS, FirewallWatch } from "./repair.ts";
import { RoutingChanges } from "./routing-changes.ts";
import { readJson, writeWhole } from "./state-files.ts";

/** The watch of this machine, with its iptables, files and journal. */

const output = standardError((lines) => `${lines} lines of this log are lost, because nobody read it\n`);

/** journald takes the number in angle brackets as the priority (sd-daemon(3)). */
const log = (level: "notice" | "error", message: string): void => {
  const prefix = process.env["JOURNAL_STREAM"] === undefined ? "" : level === "error" ? "<3>" : "<5>";
  output.write(`${prefix}${message.replaceAll("\n", " ")}\n`);
};

/**
 * The rules where nothing is known of the node: only root is exempt, and all others are redirected to a port on which nobody
 * answers. They get no credentials rather than those of the instance role.
 */
const CLOSED: FirewallSpec = {
  upstream: METADATA.ipv4,
  listen: DEFAULT_LISTEN,
  exemptUids: [0],
  containers: "leave",
};

const complaints = new Map<string, string>();

/** Runs an action that may fail. It logs the same failure only once, because on a full disk it recurs every two seconds. */
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
    // A full disk must not prevent a repair of the rules.
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
 * Applies the rules at boot: those of the configuration; where it cannot be read, the last ones; where none are remembered,
 * rules that refuse all users.
 *
 * @returns whether the rules are in place.
 */
export async function bringRules(configPath: string | undefined): Promise<boolean> {
  return openWatch(configPath).watch.round();
}

/**
 * Watches the rules until it is stopped. Reports to systemd that it is ready once it has found the rules right.
 *
 * @returns false where the first check fails.
 */
export async function watchRules(configPath: string | undefined): Promise<boolean> {
  const changes = listenForChanges();
  const routing = RoutingChanges.listen();
  const { rules, watch } = openWatch(configPath, () => {
    // The notification about a change that was just found may not have been read yet.
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
  /** Whether rules were changed during the check that is under way, or during the last one. */
  let missed = false;
  while (!stopped) {
    // The wait is short while a check is under way, because promises continue only between two waits.
    const readable = waitReadable(descriptors, watch.busy || rules.waiting ? BUSY_WAIT_MS : IDLE_WAIT_MS);
    const ruled = readable && changes?.take() === true;
    const routed = readable && routing !== null ? routing.take() : "nothing";
    // Readable but without a message: the kernel dropped some (ENOBUFS).
    const heard = ruled || routed === "ours" || (readable && routed === "nothing");
    // Known rules are restored first, before anything that may wait.
    if (heard || rules.waiting) watch.glance();
    // Changes that left the rules right are forgotten, so that they are not named as the cause of later damage.
    if (!rules.waiting) changes?.forget();
    if (monotonicMs() - fedAtMs >= CHECK_INTERVAL_MS) {
      notifySystemd("WATCHDOG=1");
      fedAtMs = monotonicMs();
    }
    if (heard && watch.checking) missed = true;
    if (monotonicMs() >= checkAtMs || (heard && !watch.checking)) {
      missed = false;
      const startedMs = monotonicMs();
      // The next periodic check comes after the interval, and after five times what this one took: on a slow node, comparing the
      // rules must not take a whole processor. After a check that failed, or during which the rules were changed again, it comes
      // sooner, because there may be no further notification.
      checkAtMs = startedMs + CHECK_INTERVAL_MS;
      void watch.check().then((right) => {
        const tookMs = monotonicMs() - startedMs;
        checkAtMs = Math.max(checkAtMs, monotonicMs() + (right && !missed ? REST_FACTOR : 1) * tookMs);
      });
      void watch.refresh();
    }
    await sleep(1);
  }
  await Promise.race([watch.checked(), sleep(MOST_AT_STOP_MS)]);
  return true;
}

/** The longest wait for a repair at a stop: iptables may wait for another program's lock, and systemd kills this process after 90 s. */
const MOST_AT_STOP_MS = 10_000;
const IDLE_WAIT_MS = 50;
const BUSY_WAIT_MS = 2;
const REST_FACTOR = 5;

/** Notifications about changes to nf_tables, with who made them since the last glance; null where the kernel sends none. */
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
    /** Whether any notification had arrived. */
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
