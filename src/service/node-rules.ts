import { statSync } from "node:fs";
import { DEFAULT_CONFIG_PATH, loadConfig } from "../config/load.ts";
import { lastingAccounts, systemAccounts } from "../firewall/accounts.ts";
import { endClosedState, isClosed } from "../firewall/closed-node.ts";
import { type DetectedUpstream, detectUpstream } from "../firewall/detect.ts";
import { backendStamp, systemIptables, unlessChanging } from "../firewall/iptables.ts";
import { SUBORDINATE_UIDS } from "../firewall/limits/node.ts";
import { isServedInPlaceOf } from "../firewall/listeners.ts";
import { captureRules, restoreRules, rulesGeneration } from "../firewall/nftables/known-rules.ts";
import { asSnapshot, type Snapshot } from "../firewall/nftables/snapshot.ts";
import { apply } from "../firewall/operations.ts";
import { platformFacts, platformLines } from "../firewall/platform-accounts.ts";
import { wantedTable } from "../firewall/rules.ts";
import { buildFirewallSpec, localAddresses } from "../firewall/spec.ts";
import { firewallStatus } from "../firewall/status.ts";
import type { FirewallSpec } from "../firewall/types.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import { asSpec } from "./kept-spec.ts";
import { type Guard, restoreKnown } from "./known-repairs.ts";
import { AGENT_ENTRY_SEEN, KNOWN_RULES } from "./paths.ts";
import { CHECK_INTERVAL_MS, RESOLVE_INTERVAL_MS, type WatchedRules } from "./repair.ts";
import { servedListen } from "./served-listen.ts";
import { mark, readJson, writeWhole } from "./state-files.ts";

/** The firewall of this machine, for the watch. */

/** The longest wait for another imdsproxy that is changing rules. One that takes longer is assumed to hang: the rules are restored. */
const MOST_LOCKED_MS = 10_000;

/** Attempts to compare the rules where other programs change theirs meanwhile. After these, the next check tries again. */
const COMPARISONS = 4;

/** Rules that were found right. */
interface Known {
  readonly spec: FirewallSpec;
  /** Null where they are not in nf_tables. */
  readonly snapshot: Snapshot | null;
  /** The stamp of the file from which they were read or to which they were written. */
  readonly stamp: string;
}

export interface NodeRulesOptions {
  readonly configPath: string | undefined;
  readonly clock: Clock;
  readonly log: (level: "notice" | "error", message: string) => void;
  readonly guards?: readonly Guard<FirewallSpec>[];
}

export class NodeRules implements WatchedRules<FirewallSpec> {
  readonly #options: NodeRulesOptions;
  readonly #guards: readonly Guard<FirewallSpec>[];
  readonly #accounts = lastingAccounts(systemAccounts);
  #iptables = systemIptables();
  #backend = backendStamp();
  #known: Known | null = null;
  #comparedAtMs = Number.NEGATIVE_INFINITY;
  #lockedSinceMs: number | null = null;
  /**
   * When something was repaired last, where what users began meanwhile may still be there; else null. At first it may be: a watch before
   * this one may have been killed after its repair.
   */
  #unsettledSinceMs: number | null = Number.NEGATIVE_INFINITY;
  /** Another `listen` of the configuration, to which users are not led yet; null where there is none. */
  #notServed: Endpoint | null = null;
  #saidOfUpstream = "";
  #saidOfExempt = "";
  #saidOfPlatform: ReadonlySet<string> = new Set();

  constructor(options: NodeRulesOptions) {
    this.#options = options;
    this.#guards = options.guards ?? [];
  }

  /** Whether `restore` must be called again soon, because another imdsproxy is changing the rules. */
  get waiting(): boolean {
    return this.#lockedSinceMs !== null;
  }

  async resolve(): Promise<FirewallSpec> {
    const { configPath, log } = this.#options;
    const node = {
      accounts: this.#accounts,
      detectUpstream: () => this.#detectUpstream(),
      addresses: localAddresses,
      platformFacts,
    };
    const config = loadConfig({ path: configPath });
    const { spec, upstream, unknownExempt, platformAccounts } = await buildFirewallSpec(config, node);
    const ofUpstream = `upstream ${endpointText(upstream.upstream)}: ${upstream.reason}`;
    if (ofUpstream !== this.#saidOfUpstream) log("notice", ofUpstream);
    this.#saidOfUpstream = ofUpstream;
    const ofExempt = unknownExempt?.problem ?? "";
    if (ofExempt !== "" && ofExempt !== this.#saidOfExempt)
      log("error", `not exempt until they are known: ${ofExempt}`);
    this.#saidOfExempt = ofExempt;
    for (const line of platformLines(config.platform, platformAccounts))
      if (!this.#saidOfPlatform.has(line)) log("notice", line);
    this.#saidOfPlatform = new Set(platformLines(config.platform, platformAccounts));
    return this.#ledToTheProxy(spec);
  }

  #ledToTheProxy(spec: FirewallSpec): FirewallSpec {
    const { spec: led, note } = servedListen(spec, this.#known?.spec.listen ?? null);
    if (note !== null && this.#notServed === null) this.#options.log("notice", note);
    this.#notServed = note === null ? null : spec.listen;
    return led;
  }

  /** The upstream. Where the detection is not certain, the last known upstream is kept. */
  async #detectUpstream(): Promise<DetectedUpstream> {
    const found = await detectUpstream();
    const last = this.#known?.spec.upstream;
    if (found.certain || last === undefined) return found;
    return { upstream: last, reason: `as before (now there is ${found.reason})`, certain: false };
  }

  configurationStamp(): string {
    // /etc/subuid counts too: a new line there can end an exemption, and newuidmap applies it at once.
    const files = `${stampOf(this.#options.configPath ?? DEFAULT_CONFIG_PATH)} ${stampOf(SUBORDINATE_UIDS)}`;
    const before = this.#known?.spec.listen;
    if (this.#notServed === null || before === undefined) return files;
    return `${files} ${isServedInPlaceOf(this.#notServed, before)}`;
  }

  restore(): readonly string[] {
    this.#takeUpWhatAnotherWrote();
    const known = this.#known;
    if (known === null) return [];
    const work = () => this.#restore(known);
    const now = this.#options.clock.now();
    const found = unlessChanging(work);
    if (found !== null) {
      this.#lockedSinceMs = null;
      return found;
    }
    this.#lockedSinceMs ??= now;
    return Math.abs(now - this.#lockedSinceMs) > MOST_LOCKED_MS ? work() : [];
  }

  #restore({ spec, snapshot }: Known): readonly string[] {
    const rules = (): readonly string[] => {
      try {
        return snapshot === null ? [] : restoreRules(snapshot);
      } catch (error) {
        // Then `deviations` and `apply` repair the rules with iptables.
        this.#forget();
        throw error;
      }
    };
    const found = restoreKnown(spec, rules, this.#guards);
    if (found.length > 0) this.#unsettledSinceMs = this.#options.clock.now();
    else this.#settle(spec);
    return found;
  }

  #settle(spec: FirewallSpec): void {
    if (this.#unsettledSinceMs === null) return;
    const quietMs = Math.abs(this.#options.clock.now() - this.#unsettledSinceMs);
    if (quietMs < CHECK_INTERVAL_MS) return;
    this.#unsettledSinceMs = null;
    for (const guard of this.#guards) guard.settle?.(spec);
  }

  /** Reads the rules that another process (a setup, or the rules' unit) has applied: those are the wanted rules from then on. */
  #takeUpWhatAnotherWrote(): void {
    const stamp = stampOf(KNOWN_RULES);
    if (stamp === NO_FILE || stamp === this.#known?.stamp) return;
    const kept = readJson(KNOWN_RULES) as { spec?: unknown; snapshot?: unknown } | null;
    const spec = asSpec(kept?.spec);
    if (spec !== null) this.#known = { spec, snapshot: asSnapshot(kept?.snapshot), stamp };
  }

  async deviations(spec: FirewallSpec): Promise<readonly string[]> {
    const backend = backendStamp();
    if (backend !== this.#backend) {
      // The alternatives of iptables were switched, and it now shows the rules of the other backend.
      this.#backend = backend;
      this.#iptables = systemIptables();
      this.#forget();
    }
    const ofGuards = [
      ...this.#guards.flatMap((guard) => guard.problems(spec)),
      ...(isClosed() ? ["closed to users since the boot, until the rules are there"] : []),
    ];
    const age = this.#options.clock.now() - this.#comparedAtMs;
    const compared = age >= 0 && age < RESOLVE_INTERVAL_MS && this.#known?.snapshot != null;
    // `restore` has just compared the rules byte by byte.
    if (compared && same(this.#known?.spec, spec)) return ofGuards;
    return [...ofGuards, ...(await this.#compare(spec))];
  }

  /** Compares the rules as iptables-save prints them, and remembers them where they are right. */
  async #compare(spec: FirewallSpec): Promise<string[]> {
    const access = (await this.#iptables.access()).filter(({ problem }) => problem === null);
    const inKernel = access.every(({ version }) => version?.includes("legacy") !== true);
    const wanted = access.flatMap(({ family }) => [
      wantedTable(spec, family, "filter"),
      wantedTable(spec, family, "nat"),
    ]);
    let snapshot: Snapshot | null = null;
    // Where other programs change rules meanwhile, the snapshot might not be what was compared, and is taken again.
    for (let tries = 0; tries < COMPARISONS && snapshot === null; tries++) {
      const generation = inKernel ? rulesGeneration() : null;
      const { deviations, original } = await firewallStatus(this.#iptables, spec);
      if (original.copies > 0)
        this.#attempt("cannot remember the agent's entry", () => mark(AGENT_ENTRY_SEEN));
      if (deviations.length > 0)
        return deviations.map(({ family, table, detail }) => `${family} ${table}: ${detail}`);
      if (generation === null) break;
      snapshot = captureRules(wanted, generation);
    }
    this.#keep(spec, snapshot);
    return [];
  }

  async apply(spec: FirewallSpec): Promise<void> {
    // The lock is held until the new rules are remembered, so that no other watch takes them for damage.
    await this.#iptables.exclusively(async () => {
      await apply(this.#iptables, spec);
      for (const guard of this.#guards) guard.restore(spec);
      this.#unsettledSinceMs = this.#options.clock.now();
      this.#forget();
      await this.#compare(spec);
      // Last, so that the node stays closed until here, and where any step fails.
      endClosedState();
    });
  }

  #keep(spec: FirewallSpec, snapshot: Snapshot | null): void {
    this.#comparedAtMs = this.#options.clock.now();
    const isNews = !same(this.#known?.spec, spec) || !same(this.#known?.snapshot, snapshot);
    if (isNews) {
      // A full disk must not prevent a repair of the rules.
      this.#attempt(`cannot remember the rules in ${KNOWN_RULES}`, () =>
        writeWhole(KNOWN_RULES, { spec, snapshot }, 0o600),
      );
    }
    this.#known = { spec, snapshot, stamp: stampOf(KNOWN_RULES) };
  }

  #forget(): void {
    this.#comparedAtMs = Number.NEGATIVE_INFINITY;
    if (this.#known !== null) this.#known = { ...this.#known, snapshot: null };
  }

  #attempt(what: string, action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#options.log("error", `${what}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

const NO_FILE = "none";
function stampOf(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  return found === undefined ? NO_FILE : `${found.ino}:${found.size}:${found.mtimeMs}`;
}
