/**
 * `make bench-sessions`: what a session takes of the heap, by our own code alone: handler, broker, names, audit, status and metrics with
 * a scripted STS whose tokens have 1,200 bytes. A virtual clock goes on by 50 ms for each caller, 20 a second, which is what a node may
 * ask of STS. It prints JSON, and does not change with what else runs on the machine: test/sessions/memory.test.ts holds a bound.
 *
 *   SESSIONS=4000    how many      NAMELESS=1    callers without an account
 */
import { heapStats } from "bun:jsc";
import { type AccountDatabase, Accounts } from "../src/identity/accounts.ts";
import type { AccountAnswer } from "../src/identity/name-walk.ts";
import { IdentityResolver } from "../src/identity/resolver.ts";
import { Handler } from "../src/imds/handler.ts";
import { RecentCallers } from "../src/imds/recent-callers.ts";
import { TokenMint } from "../src/imds/tokens.ts";
import type { Clock } from "../src/platform/clock.ts";
import { CallAllowance } from "../src/sessions/allowance.ts";
import { SessionBroker } from "../src/sessions/broker.ts";
import { Audit } from "../src/telemetry/audit.ts";
import { Health } from "../src/telemetry/health.ts";
import { createLog } from "../src/telemetry/log.ts";
import { MetadataCache } from "../src/upstream/cache.ts";
import { eventSinks } from "../src/wiring/events.ts";
import { GivenSessions } from "../src/wiring/given-sessions.ts";
import { Status } from "../src/wiring/status.ts";
import { CREDENTIALS, callerOf, policyOf, ROLE, request } from "../test/imds/support.ts";
import { idleMetrics } from "./bench/idle-metrics.ts";

const SESSIONS = Number(process.env["SESSIONS"] ?? 4_000);
const isNameless = process.env["NAMELESS"] === "1";
/** Callers before those who are counted: what is kept for a number of the last ones is full then. */
const FIRST = 600;
const STEP_MS = 50;
const HOUR_MS = 3_600_000;
const SWEEP_MS = 60_000;

/** Timers that come again are called by `go`; no other is due within the run. */
class Virtual implements Clock {
  elapsedMs = 0;
  readonly #timers = new Map<() => void, number>();
  now = (): number => Date.UTC(2030, 0, 1) + this.elapsedMs;
  bootMs = (): number => this.elapsedMs;
  schedule(delayMs: number, run: () => void): () => void {
    if (delayMs <= SWEEP_MS) this.#timers.set(run, this.elapsedMs + delayMs);
    return () => this.#timers.delete(run);
  }
  go(ms: number): void {
    this.elapsedMs += ms;
    for (const [run, dueMs] of [...this.#timers]) {
      if (dueMs > this.elapsedMs) continue;
      this.#timers.delete(run);
      run();
    }
  }
}

const clock = new Virtual();
const monotonicMs = () => clock.elapsedMs;

const group = (gid: number, name: string) => ({ gid, name, nameUnavailable: [], by: ["files"] });
const named = (uid: number): AccountAnswer => ({
  account: {
    ...{ user: `user${uid}`, uid, gid: uid, service: "files", kept: false },
    groups: [group(uid, `user${uid}`), group(100, "users")],
    groupsUnavailable: [],
  },
  unavailable: [],
});
const database: AccountDatabase = {
  byUid: async (uid) => (isNameless ? { account: null, unavailable: [] } : named(uid)),
  byName: async () => ({ account: null, unavailable: [] }),
  ownersInFile: () => [],
  ownersService: () => null,
  ownersByService: async () => ({ status: "success", owners: [] }),
  isAllocated: () => false,
  fingerprint: () => "",
};
const resolver = new IdentityResolver({ accounts: new Accounts({ database, clock }), cgroups: null });
const policy = policyOf({ role: ROLE, nameless: "default" }, (owner) => resolver.resolve(owner));

let made = 0;
/** A text with bytes of its own, as those of an answer of STS are. */
const text = (length: number, filler: string) => Buffer.from(`${made}`.padStart(length, filler)).toString();
const audit = new Audit({
  log: { record() {}, line: () => "" },
  journal: null,
  identify: (owner) => resolver.resolve(owner),
  clock,
  monotonicMs,
});
const events = eventSinks(createLog({ level: "error", format: "json" }), audit, monotonicMs);
const status = new Status({ now: clock.now });
const health = new Health({ now: clock.now, stsEndpoint: async () => null, checks: {} });
const rate = { perSecond: 600, burst: 100_000 };
const broker = new SessionBroker({
  sts: {
    async assumeRole() {
      made++;
      return {
        accessKeyId: text(20, "A"),
        secretAccessKey: text(40, "s"),
        sessionToken: text(1_200, "t"),
        expiresAtMs: clock.now() + HOUR_MS,
        obtainedAtMs: clock.now(),
      };
    },
  },
  clock,
  monotonicMs,
  random: Math.random,
  onEvent(event) {
    events.session(event);
    health.session(event);
    status.session(event, () => null);
  },
  allowance: new CallAllowance({ user: rate, node: rate }),
});
events.attach(idleMetrics(broker, () => audit.counts()));
const given = new GivenSessions({ broker, clock, hasCgroup: async () => true });
const recent = new RecentCallers();
const handler = new Handler({
  clock,
  monotonicMs,
  tokens: new TokenMint(new Uint8Array(32).fill(7)),
  metadata: new MetadataCache({
    clock,
    source: { read: async () => ({ kind: "found", body: "i-0123456789abcdef0", lastModifiedMs: null }) },
  }),
  broker,
  policy: () => policy,
  tokensRequired: () => false,
  onRequest(event) {
    given.note(event);
    events.request(event);
    status.request(event);
  },
  health: { document: async () => ({}), ownFailure: () => null },
  lagMs: () => 0,
  onAsked: (owner, user) => recent.note(owner, user, clock.now()),
});

async function ask(uid: number): Promise<void> {
  clock.go(STEP_MS);
  const asked = request("GET", CREDENTIALS, { host: "169.254.169.254" });
  const { status: code, body } = await handler.handle(asked, callerOf(uid));
  if (code !== 200 || !String(body).includes("Success")) throw new Error(`uid ${uid} has ${code}`);
}

function heap(): { bytes: number; objects: number } {
  // What the first leaves for finalizers is gone after the second.
  Bun.gc(true);
  Bun.gc(true);
  const { heapSize, objectCount } = heapStats();
  return { bytes: heapSize, objects: objectCount };
}

for (let i = 0; i < FIRST; i++) await ask(100_000 + i);
const before = heap();
for (let i = 0; i < SESSIONS; i++) await ask(200_000 + i);
const after = heap();
const { sessions } = broker.counts();
console.log(
  JSON.stringify({
    sessions,
    bytes: Math.round((after.bytes - before.bytes) / SESSIONS),
    objects: Number(((after.objects - before.objects) / SESSIONS).toFixed(1)),
  }),
);
process.exit(0);
