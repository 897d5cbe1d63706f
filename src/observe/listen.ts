import type { Accounts, KnownAs } from "../identity/accounts.ts";
import { monotonicMs, sleep, systemClock } from "../platform/clock.ts";
import { ArgumentReader } from "./argument-reader.ts";
import { Callers } from "./callers.ts";
import { Capture } from "./capture.ts";
import { Observer } from "./observer.ts";
import type { NamedCaller } from "./outcome.ts";
import { type Observed, type Run, withoutNames } from "./record.ts";
import { systemEvidence } from "./system-evidence.ts";

/** One run of observe: listens, counts, and reports at intervals. */

/** The longest wait of this thread for packets, in milliseconds. Everything else runs between two waits. */
const WAIT_MS = 20;
const PACKETS_OF_TURN = 1_024;
const TICK_MS = 1_000;
const SAVE_MS = 60_000;

/** Where a run stands. */
export interface Listened {
  readonly observed: Observed;
  /** Packets that this run has missed, and whether there may be more that no later sequence number has shown. */
  readonly missed: number;
  readonly atLeast: boolean;
  /** Whether the rules were away for a while. */
  readonly gap: boolean;
  readonly sinceMs: number;
}

export interface ListenOptions {
  readonly accounts: Pick<Accounts, "resolve">;
  readonly node: string;
  readonly shareOf: (uid: number) => string | number;
  /** What earlier runs saw; null for none. */
  readonly earlier: Observed | null;
  /** How long, in milliseconds; null until `ended` says so. */
  readonly forMs: number | null;
  readonly ended: () => boolean;
  /** False for what a kernel before 5.12 can do, for tests. Default true. */
  readonly owner?: boolean;
  /** Called once, when the rules are there. `owned` is false where they would stay if this process were killed. */
  readonly onListening: (facts: { owned: boolean; notes: readonly string[] }) => Promise<void>;
  /** Called where something else had removed the rules, and they are there again. */
  readonly onRestored?: () => Promise<void>;
  /** Called about every second. */
  readonly onTick: (listened: Listened, leftMs: number | null) => void;
  /** Called about every minute. */
  readonly onSave: (listened: Listened) => void;
}

/** @throws ImdsProxyError `missing`, `unhealthy` where it cannot listen. */
export async function listen(options: ListenOptions): Promise<Listened> {
  const callers = new Callers(options.shareOf);
  callers.add((options.earlier?.callers ?? []).map(withoutNames));
  const names = new Names(options.accounts, options.earlier);
  const evidence = systemEvidence();
  const reader = new ArgumentReader((process) => evidence.processes.isStill(process));
  const observer = new Observer({
    evidence,
    callers,
    nowMs: systemClock.now,
    shareOf: options.shareOf,
    onProcess: (caller, process) => void reader.take(caller, process).catch(() => {}),
  });
  evidence.warmUp();
  const capture = new Capture({ owner: options.owner ?? true });
  try {
    const startedMs = monotonicMs();
    const fromMs = systemClock.now();
    let missed = 0;
    let atLeast = false;
    /** Whether the rules were away for a while: requests in that time were not seen. */
    let hadGap = false;
    const sinceMs = () => monotonicMs() - startedMs;
    const state = (): Listened => {
      const run: Run = { fromMs, toMs: systemClock.now(), missed, ...(hadGap ? { gap: true } : {}) };
      const runs = [...(options.earlier?.runs ?? []), run];
      const seen = callers.snapshot();
      return {
        observed: { node: options.node, runs, callers: names.of(seen) },
        missed,
        atLeast,
        gap: hadGap,
        sinceMs: sinceMs(),
      };
    };
    const read = (): number => {
      const got = capture.read(PACKETS_OF_TURN, (packet) => observer.take(packet));
      missed += got.missed;
      // A gap in the sequence numbers shows how many packets an overrun has lost.
      atLeast = got.missed > 0 ? got.overrun : atLeast || got.overrun;
      return got.read;
    };
    await options.onListening({ owned: capture.owned, notes: evidence.notes });
    let tickMs = 0;
    let saveMs = SAVE_MS;
    while (!options.ended() && (options.forMs === null || sinceMs() < options.forMs)) {
      const isBusy = read() > 0;
      if (!isBusy) capture.wait(WAIT_MS);
      await sleep(0);
      if (sinceMs() >= tickMs) {
        tickMs = sinceMs() + TICK_MS;
        if (capture.restore()) {
          hadGap = true;
          await options.onRestored?.();
        }
        names.ask(callers.snapshot());
        options.onTick(state(), options.forMs === null ? null : Math.max(0, options.forMs - sinceMs()));
      }
      if (sinceMs() >= saveMs) {
        saveMs = sinceMs() + SAVE_MS;
        options.onSave(state());
      }
    }
    capture.stop();
    while (read() > 0);
    await names.settle(callers.snapshot());
    return state();
  } finally {
    capture.close();
    evidence.close();
  }
}

/** Looks the names of uids up in the background: a directory that hangs delays nothing but its own names. */
class Names {
  readonly #accounts: Pick<Accounts, "resolve">;
  readonly #known = new Map<number, KnownAs>();
  readonly #asked = new Map<number, Promise<void>>();

  constructor(accounts: Pick<Accounts, "resolve">, earlier: Observed | null) {
    this.#accounts = accounts;
    for (const { uid, account } of earlier?.callers ?? [])
      if (uid !== null && account !== null) this.#known.set(uid, account);
  }

  /** Asks for the names of those that were not asked for before. */
  ask(callers: readonly { readonly uid: number | null }[]): void {
    for (const { uid } of callers) {
      if (uid === null || this.#asked.has(uid)) continue;
      this.#asked.set(
        uid,
        (async () => {
          try {
            this.#known.set(uid, await this.#accounts.resolve(uid));
          } catch (error) {
            const userUnavailable = error instanceof Error ? error.message : "unknown";
            if (!this.#known.has(uid))
              this.#known.set(uid, { user: null, groups: [], subordinate: false, userUnavailable });
          }
        })(),
      );
    }
  }

  async settle(callers: readonly { readonly uid: number | null }[]): Promise<void> {
    this.ask(callers);
    await Promise.all(this.#asked.values());
  }

  of(callers: readonly Omit<NamedCaller, "account">[]): NamedCaller[] {
    return callers.map((caller) => ({
      ...caller,
      account: caller.uid === null ? null : (this.#known.get(caller.uid) ?? null),
    }));
  }
}
