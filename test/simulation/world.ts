import { categoryFilter } from "../../src/config/categories.ts";
import { configSchema } from "../../src/config/schema.ts";
import type { Answer } from "../../src/http/answer.ts";
import type { Request } from "../../src/http/request.ts";
import { NamesUnavailable } from "../../src/identity/accounts.ts";
import type { KnownCaller } from "../../src/identity/caller.ts";
import type { Identity } from "../../src/identity/types.ts";
import type { Policy } from "../../src/imds/decisions.ts";
import { Handler } from "../../src/imds/handler.ts";
import { TokenMint } from "../../src/imds/tokens.ts";
import type { Clock } from "../../src/platform/clock.ts";
import { compileRules } from "../../src/rules/decide.ts";
import { CallAllowance } from "../../src/sessions/allowance.ts";
import { SessionBroker } from "../../src/sessions/broker.ts";
import { StsFailure } from "../../src/sessions/failure.ts";
import type { Session, SessionRequest } from "../../src/sessions/types.ts";
import { MetadataCache, type UpstreamAnswer } from "../../src/upstream/cache.ts";
import { Generator } from "./generator.ts";

/**
 * Handler, rules, tokens, broker and metadata cache under one virtual clock and one seed, with name services, an STS and a metadata
 * service that answer, fail and hang at random between any two steps. After each step invariants are checked, by a table of this
 * file's own: nothing is compared with what the code under test says of itself.
 */

export const SECOND = 1_000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;

const HOST = "169.254.169.254";
const INSTANCE = "i-0123456789abcdef0";
const arn = (name: string) => `arn:aws:iam::842413447717:role/${name}`;

/** The node's users, and what each of the configurations gives them: role and session name, or null for a refusal. */
interface Person {
  readonly uid: number;
  readonly user: string | null;
  readonly groups: readonly string[];
  readonly gets: readonly (readonly [role: string, session: string] | null)[];
}
const CONFIGURATIONS: readonly object[] = [
  {
    role: arn("Login"),
    rules: [
      {
        name: "data",
        match: { group: "data" },
        role: arn("Data"),
        sessionName: "{user}",
        durationSeconds: 900,
      },
      { name: "guests", match: { uid: "5000-5999" }, role: "none" },
    ],
  },
  {
    rules: [
      {
        name: "ann",
        match: { user: "ann" },
        role: arn("Ann"),
        sessionName: "{uid}.{user}",
        tags: { who: "{user}", node: "{instanceId}" },
      },
      { name: "team", match: { group: ["ops", "data"] }, role: arn("Team"), sessionName: "team" },
    ],
  },
];
const PEOPLE: readonly Person[] = [
  {
    uid: 2001,
    user: "ann",
    groups: ["data"],
    gets: [
      ["Data", "ann"],
      ["Ann", "2001.ann"],
    ],
  },
  {
    uid: 2002,
    user: "bob",
    groups: ["ops"],
    gets: [
      ["Login", `bob@${INSTANCE}`],
      ["Team", "team"],
    ],
  },
  {
    uid: 2003,
    user: "cyd",
    groups: ["data", "ops"],
    gets: [
      ["Data", "cyd"],
      ["Team", "team"],
    ],
  },
  { uid: 5001, user: "guest", groups: [], gets: [null, null] },
  { uid: 7001, user: "dan", groups: [], gets: [["Login", `dan@${INSTANCE}`], null] },
];

/** Of AssumeRole calls: few enough that the limit is met. */
const RATES = { user: { perSecond: 0.5, burst: 4 }, node: { perSecond: 2, burst: 10 } };

/** What is asked for, beside a token. */
const PATHS = [
  "/latest/meta-data/iam/security-credentials/",
  "/latest/meta-data/instance-id",
  "/latest/meta-data/placement/region",
  "/latest/meta-data/iam/info",
  "/imdsproxy/whoami",
] as const;
const CREDENTIALS = "/latest/meta-data/iam/security-credentials/";

/**
 * Three clocks: the one that timers follow, the wall clock, which somebody may set, and the time that has really passed, which goes on
 * while the machine sleeps. A machine that wakes sets its wall clock to what passed; its timers take the sleep for nothing.
 */
class VirtualClock implements Clock {
  monotonicMs = 0;
  sleptMs = 0;
  wallOffsetMs = Date.UTC(2030, 0, 1);
  readonly #timers = new Map<number, { readonly dueMs: number; readonly run: () => void }>();
  #next = 0;

  now(): number {
    return this.wallOffsetMs + this.monotonicMs;
  }
  /** What has really passed since the start. */
  bootMs(): number {
    return this.monotonicMs + this.sleptMs;
  }
  sleep(ms: number): void {
    this.sleptMs += ms;
    this.wallOffsetMs += ms;
  }
  schedule(delayMs: number, run: () => void): () => void {
    const id = this.#next++;
    this.#timers.set(id, { dueMs: this.monotonicMs + Math.max(0, delayMs), run });
    return () => void this.#timers.delete(id);
  }
  get pending(): number {
    return this.#timers.size;
  }
  /** Runs the timer that is due first, where it is due by then, and moves to it; else moves there. */
  stepTo(untilMs: number): boolean {
    let first: number | null = null;
    let firstMs = Number.POSITIVE_INFINITY;
    for (const [id, { dueMs }] of this.#timers) if (dueMs < firstMs) [first, firstMs] = [id, dueMs];
    if (first === null || firstMs > untilMs) {
      this.monotonicMs = untilMs;
      return false;
    }
    const timer = this.#timers.get(first);
    this.#timers.delete(first);
    this.monotonicMs = Math.max(this.monotonicMs, firstMs);
    timer?.run();
    return true;
  }
}

/** Something that waits for an outside party. */
interface Open {
  readonly answer: () => void;
}

interface Issued {
  readonly request: SessionRequest;
  readonly obtainedAtMs: number;
  readonly lifeMs: number;
  /** How often the clock had been set, or the machine had slept, until then. */
  readonly clockChanges: number;
}

/** An invariant that does not hold. */
export class Violation extends Error {}

/** What is healthy: during `calm` nothing fails and nothing hangs. */
export interface WorldOptions {
  readonly seed: number;
}

export class World {
  readonly #random: Generator;
  readonly clock = new VirtualClock();
  /** Calls that wait for an answer, of name services, STS and the metadata service. */
  #open: Open[] = [];
  /** STS calls under way, by request. */
  readonly #calls = new Map<string, number>();
  /** When STS last denied a request, by request. */
  readonly #denied = new Map<string, number>();
  readonly #issued = new Map<string, Issued>();
  readonly #tokens: { readonly uid: number; readonly text: string; readonly endsMs: number }[] = [];
  #configuration = 0;
  readonly #policies: readonly Policy[];
  readonly #handler: Handler;
  readonly broker: SessionBroker;
  calm = false;
  /** How often the clock was set, or the machine slept: a session may seem over to both. */
  #clockChanges = 0;
  /** How often other rules came, which withdraw sessions. */
  #reloads = 0;
  /** By uid, how often name services were asked and did not answer at once. */
  readonly #namesWaited = new Map<number, number>();
  /** By uid, the session that was given last, and what was known then. */
  readonly #given = new Map<number, { readonly issued: Issued; readonly reloads: number }>();
  /** What happened: requests, answers of outside parties, timers, changes of the clock and of the configuration. */
  events = 0;
  /** The same by kind, where it is of use: a run in which something never happens proves nothing of it. */
  readonly counts: Record<string, number> = {};

  constructor({ seed }: WorldOptions) {
    this.#random = new Generator(seed);
    const random = this.#random;
    const { clock } = this;
    this.broker = new SessionBroker({
      sts: { assumeRole: (request, signal) => this.#assumeRole(request, signal) },
      clock,
      monotonicMs: () => clock.monotonicMs,
      random: () => random.fraction(),
      maxEntries: 24,
      maxEntriesPerOwner: 3,
      allowance: new CallAllowance(RATES),
    });
    this.#policies = CONFIGURATIONS.map((one) => ({
      rules: compileRules(configSchema.parse(one)),
      identify: ({ uid }) => this.#identify(uid),
      categories: categoryFilter([], []),
      authorities: new Set([HOST]),
    }));
    this.#handler = new Handler({
      clock,
      monotonicMs: () => clock.monotonicMs,
      tokens: new TokenMint(new Uint8Array(32).fill(9)),
      metadata: new MetadataCache({ clock, source: { read: (_, path) => this.#readUpstream(path) } }),
      broker: this.broker,
      policy: () => this.#policies[this.#configuration] as Policy,
      tokensRequired: () => false,
      onRequest: () => {},
      health: { document: async () => ({}), ownFailure: () => null },
      lagMs: () => 0,
    });
  }

  /** One random event, and what follows from it at once. @throws Violation */
  async step(): Promise<void> {
    const random = this.#random;
    const kind = random.weighted({
      ask: 40,
      answer: 30,
      time: 20,
      reload: this.calm ? 0 : 1,
      clock: this.calm ? 0 : 0.2,
      sleep: this.calm ? 0 : 0.3,
    });
    this.#count(kind);
    this.events++;
    if (kind === "ask") this.#ask();
    else if (kind === "answer") this.#answerOne();
    else if (kind === "time") await this.#pass(random.pick([5, 50, 500, 5 * SECOND, MINUTE, 10 * MINUTE]));
    else if (kind === "reload") {
      this.#configuration = 1 - this.#configuration;
      this.#reloads++;
    } else if (kind === "sleep") {
      const ms = random.pick([SECOND, 20 * MINUTE, 2 * HOUR]);
      this.clock.sleep(ms);
      // Somebody takes the time that it then shows for wrong.
      if (random.chance(0.5)) this.clock.wallOffsetMs -= ms;
      this.#clockChanges++;
    } else {
      this.clock.wallOffsetMs += random.pick([
        -HOUR,
        -5 * MINUTE,
        -SECOND,
        SECOND,
        5 * MINUTE,
        HOUR,
        24 * HOUR,
      ]);
      this.#clockChanges++;
    }
    await settle();
    this.#checkBounds();
  }

  /** Lets time pass, with what comes due. */
  async #pass(ms: number): Promise<void> {
    const untilMs = this.clock.monotonicMs + ms;
    while (this.clock.stepTo(untilMs)) {
      this.events++;
      await settle();
      // Otherwise nothing would be answered while much time passes.
      if (!this.calm && !this.#random.chance(0.3)) continue;
      this.#answerOne();
      // An answer is read when it comes, not when the next timer is due.
      await settle();
    }
  }

  /** Nothing fails any more, and everything that waits is answered: then each user gets what is theirs. @throws Violation */
  async settleDown(): Promise<void> {
    this.calm = true;
    for (let i = 0; i < 40; i++) {
      while (this.#open.length > 0) {
        this.#answerOne();
        await settle();
      }
      await this.#pass(30 * SECOND);
    }
    if (this.#random.chance(0.5)) await this.#startAnewWithClockSetBack();
    for (const person of PEOPLE) {
      const expected = person.gets[this.#configuration] ?? null;
      const target = `${CREDENTIALS}${expected?.[0] ?? "Login"}`;
      let answer: Answer | null = null;
      void Promise.resolve(this.#handler.handle(request("GET", target), caller(person.uid))).then((one) => {
        answer = one;
      });
      for (let i = 0; answer === null && i < 200; i++) {
        await settle();
        this.#answerOne();
        await settle();
        if (answer === null && this.#open.length === 0) await this.#pass(100);
      }
      const status = (answer as Answer | null)?.status ?? "no answer";
      const wanted = expected === null ? 404 : 200;
      if (status !== wanted || (wanted === 200 && !bodyOf(answer).includes('"Success"')))
        throw new Violation(
          `progress: uid ${person.uid} has ${status} ${bodyOf(answer).slice(0, 80)} when all is well`,
        );
    }
    this.calm = false;
  }

  /** All sessions end, somebody asks for a new one, and then the clock is set back: what is remembered has dates of the future. */
  async #startAnewWithClockSetBack(): Promise<void> {
    await this.#pass(3 * HOUR);
    for (let i = 0; i < 5; i++) this.#ask();
    await this.#pass(10 * SECOND);
    this.clock.wallOffsetMs -= HOUR;
    this.#clockChanges++;
  }

  #count(kind: string): void {
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  #ask(): void {
    const random = this.#random;
    const person = random.pick(PEOPLE);
    const configuration = this.#configuration;
    const atMs = this.clock.monotonicMs;
    const reloads = this.#reloads;
    const what = random.weighted({ token: 10, credentials: 50, other: 20 });
    if (what === "token") {
      const ttl = random.pick([1, 60, 21_600]);
      const headers = { "x-aws-ec2-metadata-token-ttl-seconds": String(ttl) };
      const wallMs = this.clock.now();
      this.#handle(request("PUT", "/latest/api/token", headers), person, (answer) => {
        if (answer.status !== 200) throw new Violation(`token: PUT has ${answer.status}`);
        this.#tokens.push({ uid: person.uid, text: bodyOf(answer), endsMs: wallMs + ttl * SECOND });
        if (this.#tokens.length > 30) this.#tokens.splice(random.below(30), 1);
      });
      return;
    }
    const token = random.chance(0.5) && this.#tokens.length > 0 ? random.pick(this.#tokens) : null;
    const headers: Record<string, string> = token === null ? {} : { "x-aws-ec2-metadata-token": token.text };
    const leftMs = token === null ? 0 : token.endsMs - this.clock.now();
    const isOthers = token !== null && token.uid !== person.uid;
    const expected = person.gets[configuration] ?? null;
    const name = random.chance(0.8)
      ? (expected?.[0] ?? "Login")
      : random.pick(["Login", "Data", "Team", "Ann"]);
    const target = what === "credentials" ? `${CREDENTIALS}${name}` : random.pick(PATHS);
    const canBeServed =
      what === "credentials" && name === expected?.[0] ? this.#hasSession(person.uid) : () => false;
    this.#handle(request("GET", target, headers), person, (answer) => {
      if (isOthers && answer.status !== 401)
        throw new Violation(
          `token: uid ${person.uid} has ${answer.status} with the token of uid ${token?.uid}`,
        );
      // The second in which it ends is neither.
      if (token !== null && leftMs < -SECOND && answer.status !== 401)
        throw new Violation(`token: one that ended ${-leftMs} ms ago has ${answer.status}`);
      // One with more life than any token can have is from before the clock was set back.
      if (token !== null && !isOthers && leftMs > SECOND && leftMs <= 6 * HOUR && answer.status === 401)
        throw new Violation(`token: uid ${person.uid} has 401 with their own, which has ${leftMs} ms`);
      if (answer.status === 401 || what !== "credentials") return;
      if (canBeServed() && !bodyOf(answer).includes('"Success"'))
        throw new Violation(
          `served: uid ${person.uid} has ${answer.status} ${bodyOf(answer).slice(0, 80)}, and a session that is not over`,
        );
      this.#checkCredentials(answer, person, expected, name, atMs, reloads);
    });
  }

  #checkCredentials(
    answer: Answer,
    person: Person,
    expected: Person["gets"][number],
    name: string,
    askedAtMs: number,
    reloads: number,
  ): void {
    const body = bodyOf(answer);
    if (answer.status !== 200) {
      if (expected === null && answer.status !== 404 && answer.status !== 503)
        throw new Violation(`refusal: uid ${person.uid} has ${answer.status}`);
      return;
    }
    if (expected === null || name !== expected[0])
      throw new Violation(`owner: uid ${person.uid} has an answer for the role ${name}, which is not theirs`);
    const document = JSON.parse(body) as { Code: string; AccessKeyId: string };
    const nowMs = this.clock.bootMs();
    if (document.Code !== "Success") {
      this.#count("denied");
      const last = [...this.#denied].filter(([key]) => key.startsWith(`${arn(name)} ${expected[1]} `));
      const deniedAtMs = Math.max(Number.NEGATIVE_INFINITY, ...last.map(([, ms]) => ms));
      // A minute, and the three seconds that a caller may wait.
      if (askedAtMs - deniedAtMs > 63 * SECOND)
        throw new Violation(
          `denial: uid ${person.uid} is told of one that is ${askedAtMs - deniedAtMs} ms old`,
        );
      return;
    }
    this.#count("given");
    const issued = this.#issued.get(document.AccessKeyId);
    if (issued === undefined) throw new Violation(`owner: ${document.AccessKeyId} was never issued`);
    const { roleArn, sessionName } = issued.request;
    if (roleArn !== arn(expected[0]) || sessionName !== expected[1])
      throw new Violation(`owner: uid ${person.uid} has the session ${sessionName} of ${roleArn}`);
    if (nowMs - issued.obtainedAtMs >= issued.lifeMs)
      throw new Violation(
        `end: uid ${person.uid} has a session that is ${nowMs - issued.obtainedAtMs} ms old`,
      );
    this.#given.set(person.uid, { issued, reloads });
  }

  /**
   * Whether this user has a session that has to be given to them whatever fails: now, and for as long as what is returned says so.
   * Where name services do not answer, nobody knows who it is.
   */
  #hasSession(uid: number): () => boolean {
    const last = this.#given.get(uid);
    const namesWaited = this.#namesWaited.get(uid);
    const holds = () =>
      last !== undefined &&
      last.reloads === this.#reloads &&
      last.issued.clockChanges === this.#clockChanges &&
      namesWaited === this.#namesWaited.get(uid) &&
      // A minute is held back of each session, and a moment may pass on the way.
      this.clock.bootMs() - last.issued.obtainedAtMs < last.issued.lifeMs - MINUTE - SECOND;
    return holds() ? holds : () => false;
  }

  #handle(asked: Request, person: Person, check: (answer: Answer) => void): void {
    const given = this.#handler.handle(asked, caller(person.uid));
    if (!(given instanceof Promise)) check(given);
    else
      given.then(check).catch((error: unknown) => {
        this.#failure ??= error;
      });
  }
  /** What was thrown while nobody waited. */
  #failure: unknown = null;

  #checkBounds(): void {
    if (this.#failure !== null) throw this.#failure;
    const { entries } = this.broker.counts();
    if (entries > 24) throw new Violation(`memory: ${entries} requests are remembered, of 24`);
    if (this.clock.pending > 400) throw new Violation(`memory: ${this.clock.pending} timers wait`);
  }

  /** An answer of one of those who are waited for. */
  #answerOne(): void {
    if (this.#open.length === 0) return;
    this.events++;
    const at = this.#random.below(this.#open.length);
    const [open] = this.#open.splice(at, 1);
    open?.answer();
  }

  #waits<T>(answer: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#open.push({
        answer: () => {
          try {
            resolve(answer());
          } catch (error) {
            reject(error);
          }
        },
      });
    });
  }

  #identify(uid: number): Identity | Promise<Identity> {
    const person = PEOPLE.find((one) => one.uid === uid);
    const identity: Identity = {
      ...{ uid, container: null, user: person?.user ?? null, subordinate: false },
      ...{ groups: person?.groups ?? [], cgroup: "/", slurmJobId: null },
    };
    const known = this.#identities.get(uid);
    if (known !== undefined && this.#random.chance(0.9)) return known;
    this.#identities.set(uid, identity);
    if (this.calm || this.#random.chance(0.7)) return identity;
    this.#namesWaited.set(uid, (this.#namesWaited.get(uid) ?? 0) + 1);
    return this.#waits(() => {
      if (this.#random.chance(0.5)) return identity;
      throw new NamesUnavailable("the directory is away");
    });
  }
  readonly #identities = new Map<number, Identity>();

  async #readUpstream(path: string): Promise<UpstreamAnswer> {
    return this.#waits((): UpstreamAnswer => {
      if (!this.calm && this.#random.chance(0.3)) return { kind: "failed", why: "away" };
      if (path === "meta-data/instance-id") return { kind: "found", body: INSTANCE, lastModifiedMs: null };
      return path.startsWith("meta-data/placement")
        ? { kind: "found", body: "us-west-2", lastModifiedMs: null }
        : { kind: "absent" };
    });
  }

  #assumeRole(asked: SessionRequest, signal: AbortSignal): Promise<Session> {
    const key = `${asked.roleArn} ${asked.sessionName} ${JSON.stringify(asked.tags)}`;
    const under = (this.#calls.get(key) ?? 0) + 1;
    this.#calls.set(key, under);
    if (under > 1 && this.#failure === null)
      this.#failure = new Violation(`single-flight: ${under} calls of STS are under way for ${key}`);
    const ended = () => void this.#calls.set(key, (this.#calls.get(key) ?? 1) - 1);
    const { promise, resolve, reject } = Promise.withResolvers<Session>();
    let isOver = false;
    const end = (settle: () => void) => {
      if (isOver) return;
      isOver = true;
      ended();
      settle();
    };
    // Where the broker gives up, the call is over.
    signal.addEventListener("abort", () => end(() => reject(new Error("aborted"))));
    const failure = (kind: "denied" | "transient") =>
      new StsFailure({ kind, code: kind, message: `STS says ${kind}` });
    this.#open.push({
      answer: () => {
        const how = this.calm
          ? "session"
          : this.#random.weighted({ session: 55, denied: 10, transient: 20, over: 8, hangs: 7 });
        this.#count(`sts ${how}`);
        if (how === "hangs") return;
        if (how === "denied") this.#denied.set(key, this.clock.monotonicMs);
        if (how === "denied" || how === "transient") return end(() => reject(failure(how)));
        if (!isOver) end(() => resolve(this.#issue(asked, how === "over")));
      },
    });
    return promise;
  }

  #issue(asked: SessionRequest, isOver: boolean): Session {
    const accessKeyId = `ASIA${this.#issued.size}`;
    const lifeMs = isOver ? 30 * SECOND : asked.durationSeconds * SECOND;
    this.#issued.set(accessKeyId, {
      request: asked,
      obtainedAtMs: this.clock.bootMs(),
      lifeMs,
      clockChanges: this.#clockChanges,
    });
    const nowMs = this.clock.now();
    return {
      ...{ accessKeyId, secretAccessKey: "secret", sessionToken: "token" },
      ...{ expiresAtMs: nowMs + lifeMs, obtainedAtMs: nowMs },
    };
  }
}

const caller = (uid: number): KnownCaller => ({
  kind: "owner",
  owner: { uid, cgroupId: null, redirected: true },
  share: uid,
});

const request = (
  method: string,
  target: string,
  headers: Readonly<Record<string, string>> = {},
): Request => ({
  ...{ method, target, headers: new Map(Object.entries({ host: HOST, ...headers })) },
  ...{ keepAlive: true, bodyLength: 0, emptyChunks: false },
});

const bodyOf = (answer: Answer | null): string => String(answer?.body ?? "");

/** Lets promises that can settle do so: those of the code under test are a few deep. */
async function settle(): Promise<void> {
  for (let i = 0; i < 16; i++) await Promise.resolve();
}
