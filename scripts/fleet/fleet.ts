import { configSchema } from "../../src/config/schema.ts";
import type { Rate } from "../../src/platform/token-bucket.ts";
import { CallAllowance } from "../../src/sessions/allowance.ts";
import { SessionBroker } from "../../src/sessions/broker.ts";
import type { SessionRequest } from "../../src/sessions/types.ts";
import { AccountSts } from "./account.ts";
import { WheelClock } from "./clock.ts";

/**
 * Many nodes of one account: for each the broker that the program runs, with its default limits, under one virtual clock and in front of
 * one STS with the account's quota. Each node has as many identities. Whoever has a session uses it all the time, which is the most
 * that they can cost; who has none asks again every ten seconds or so, as programs do that are started again.
 */

const STEP_MS = 100;
const ASK_AGAIN_MS = 10_000;

export interface FleetOptions {
  readonly nodes: number;
  readonly identities: number;
  /** Calls of STS that the account may make. */
  readonly quota: Rate;
  /** In [0, 1): the jitter of the brokers. `() => 0` is none. */
  readonly random: () => number;
  /** In [0, 1): when callers ask. */
  readonly chance: () => number;
  /** Seconds that one sample covers. */
  readonly sampleSeconds: number;
  /** Milliseconds of a step of the clock. Default 100. */
  readonly stepMs?: number;
}

/** What happened in one sample. */
export interface Sample {
  /** Seconds since the start, at the sample's end. */
  readonly atSeconds: number;
  /** Calls a second that reached STS. */
  readonly calls: number;
  /** Of them, those that gave a session. */
  readonly granted: number;
  /** Identities that want a session and have none, at the end of the sample. */
  readonly without: number;
}

interface Identity {
  readonly request: SessionRequest;
  readonly owner: string;
  has: boolean;
}

interface Node {
  readonly broker: SessionBroker;
  readonly identities: Identity[];
}

const { limits } = configSchema.parse({});

export class Fleet {
  readonly #options: FleetOptions;
  readonly #clock: WheelClock;
  readonly #sts: AccountSts;
  readonly #nodes: Node[];
  readonly samples: Sample[] = [];
  #without = 0;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#clock = new WheelClock(options.stepMs ?? STEP_MS);
    this.#sts = new AccountSts(this.#clock, options.quota);
    this.#nodes = Array.from({ length: options.nodes }, () => this.#node());
  }

  /** All identities of the cluster want a session, from moments within `withinMs` on. */
  start(withinMs: number): void {
    for (const node of this.#nodes) for (const one of node.identities) this.#want(node, one, withinMs);
  }

  /**
   * The rules give everybody another role: what each had is withdrawn, as after a reload, and they ask for the new one within
   * `withinMs`.
   */
  changeRole(role: string, withinMs: number): void {
    for (const node of this.#nodes) {
      for (const [at, { request, owner, has }] of node.identities.entries()) {
        const next: Identity = { request: requestOf(role, at), owner, has: false };
        node.identities[at] = next;
        node.broker.forget(request, "withdrawn");
        if (has) this.#without++;
        this.#askIn(node, next, this.#options.chance() * withinMs);
      }
    }
  }

  setAway(isAway: boolean): void {
    this.#sts.isAway = isAway;
  }

  /** What was before does not count. */
  forgetSamples(): void {
    this.samples.length = 0;
  }

  /** Lets this much time pass. */
  async run(seconds: number): Promise<void> {
    const endMs = this.#clock.elapsedMs + seconds * 1_000;
    const sampleMs = this.#options.sampleSeconds * 1_000;
    while (this.#clock.elapsedMs < endMs) {
      await this.#clock.step();
      if (this.#clock.elapsedMs % sampleMs === 0) this.#sample();
    }
  }

  #sample(): void {
    const { sampleSeconds } = this.#options;
    const { granted, throttled, failed } = this.#sts;
    this.samples.push({
      atSeconds: this.#clock.elapsedMs / 1_000,
      calls: (granted + throttled + failed) / sampleSeconds,
      granted: granted / sampleSeconds,
      without: this.#without,
    });
    this.#sts.granted = this.#sts.throttled = this.#sts.failed = 0;
  }

  #node(): Node {
    const { identities, random } = this.#options;
    const broker = new SessionBroker({
      sts: this.#sts,
      clock: this.#clock,
      monotonicMs: () => this.#clock.elapsedMs,
      random,
      allowance: new CallAllowance({ user: limits.assumeRolePerUser, node: limits.assumeRolePerNode }),
      onEvent: (event) => {
        const at = Number(event.request.sessionName.slice(4));
        const one = node.identities[at];
        if (one === undefined || one.request !== event.request) return;
        if (event.type === "obtained") {
          if (!one.has) this.#without--;
          one.has = true;
          // Its programs go on asking.
          broker.getAtHand(one.request);
        } else if (event.type === "dropped") {
          if (!one.has) return;
          one.has = false;
          this.#without++;
          this.#askIn(node, one, this.#options.chance() * ASK_AGAIN_MS);
        }
      },
    });
    const node: Node = { broker, identities: [] };
    for (let at = 0; at < identities; at++) {
      node.identities.push({ request: requestOf("Users", at), owner: `user${at}`, has: false });
    }
    return node;
  }

  #want(node: Node, one: Identity, withinMs: number): void {
    this.#without++;
    this.#askIn(node, one, this.#options.chance() * withinMs);
  }

  #askIn(node: Node, one: Identity, delayMs: number): void {
    this.#clock.schedule(delayMs, () => {
      if (one.has || !node.identities.includes(one)) return;
      // Nobody waits for the outcome here: what counts is the session.
      void node.broker.get(one.request, one.owner);
      this.#askIn(node, one, ASK_AGAIN_MS * (0.5 + this.#options.chance()));
    });
  }
}

/** One object for all nodes: what differs by node is not looked at, and 500,000 of them would be kept. */
const requests = new Map<string, SessionRequest>();
function requestOf(role: string, at: number): SessionRequest {
  const key = `${role} ${at}`;
  let found = requests.get(key);
  if (found === undefined) {
    found = {
      roleArn: `arn:aws:iam::123456789012:role/${role}`,
      sessionName: `user${at}`,
      durationSeconds: 3_600,
      ...{
        sourceIdentity: null,
        tags: [],
        transitiveTagKeys: [],
        policyArns: [],
        policy: null,
        externalId: null,
      },
    };
    requests.set(key, found);
  }
  return found;
}
