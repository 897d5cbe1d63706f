import { after, systemClock } from "../platform/clock.ts";
import { NO_LATER_THREADS } from "../platform/engine-options.ts";
import { withoutAmbientCapabilities } from "../platform/libc.ts";
import type { NameMessage, NameQuestion, OwnersAnswer } from "./name-protocol.ts";
import { type AccountAnswer, ANY_SERVICE, type BeforeAccount, type Unavailable } from "./name-walk.ts";

/**
 * A pool of helper processes that ask NSS. The C library's calls block for as long as a directory takes, and its modules are
 * third-party code: in a helper they can hang, crash or leak without harm to the proxy, and see none of its secrets. One helper
 * stays, so that a look-up need not start one.
 */

/** Timeout of one call of a service, in milliseconds. */
const TIMEOUT_MS = 5_000;
/** Timeout of all calls of one question together. */
const QUESTION_MS = 30_000;
/** For how long a service that timed out is not asked again for a user whose last answer is known. */
const SLOW_MS = 5_000;
/** A helper beyond the first exits after it was idle for so long. */
const IDLE_MS = 30_000;

/** Why a helper gave no answer. */
class NoAnswer extends Error {
  /** The service that was being asked, or null where that is not the cause. */
  readonly service: string | null;
  constructor(why: string, service: string | null) {
    super(why);
    this.service = service;
  }
}

interface Waiting {
  readonly resolve: (message: NameMessage) => void;
  readonly reject: (error: NoAnswer) => void;
}

/** One helper process; it answers one question at a time. */
class Helper {
  readonly #child: Bun.Subprocess<"pipe", "pipe", "ignore">;
  #waiting: Waiting | null = null;
  #asking: string | null = null;
  #cancelStalled = () => {};
  readonly #timeoutMs: number;
  readonly #after: typeof after;
  #ended = false;
  cancelIdle = () => {};

  /** @throws where no process can be started. */
  constructor(
    command: readonly string[],
    time: { readonly timeoutMs: number; readonly after: typeof after },
    onEnd: (helper: Helper) => void,
  ) {
    this.#timeoutMs = time.timeoutMs;
    this.#after = time.after;
    this.#child = withoutAmbientCapabilities(() =>
      Bun.spawn([...command, "resolve-names"], {
        stdin: "pipe",
        stdout: "pipe",
        stderr: "ignore",
        cwd: "/",
        // Whose name is asked for while users have used up the node's process ids is still found: the first helper is there already.
        env: { PATH: "/usr/bin:/bin", LC_ALL: "C", ...NO_LATER_THREADS },
      }),
    );
    this.#child.unref();
    void this.#read().then(() => {
      this.#ended = true;
      onEnd(this);
      this.#settle((waiting, service) =>
        waiting.reject(new NoAnswer("its module ended the process", service)),
      );
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  async ask(question: NameQuestion): Promise<NameMessage> {
    const answer = new Promise<NameMessage>((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
    // It may be given up before the question is taken, while nobody waits for the answer yet.
    answer.catch(() => {});
    const cancelTooLong = this.#after(QUESTION_MS, () => this.#giveUp());
    this.#cancelStalled = this.#after(this.#timeoutMs, () => this.#giveUp());
    try {
      this.#child.stdin.write(`${JSON.stringify(question)}\n`);
      await this.#child.stdin.flush();
    } catch {
      // It has exited; #read notices that.
    }
    try {
      return await answer;
    } finally {
      cancelTooLong();
      this.#cancelStalled();
    }
  }

  end(): void {
    this.#ended = true;
    this.cancelIdle();
    this.#child.kill("SIGKILL");
  }

  #giveUp(): void {
    this.#settle((waiting, service) => waiting.reject(new NoAnswer("did not answer in time", service)));
    this.end();
  }

  #settle(how: (waiting: Waiting, service: string | null) => void): void {
    const waiting = this.#waiting;
    const service = this.#asking;
    this.#waiting = null;
    this.#asking = null;
    if (waiting !== null) how(waiting, service);
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let pending = "";
    try {
      for await (const chunk of this.#child.stdout) {
        const lines = (pending + decoder.decode(chunk, { stream: true })).split("\n");
        pending = lines.pop() ?? "";
        for (const line of lines) this.#take(JSON.parse(line) as NameMessage);
      }
    } catch {
      // Not a line of the protocol: a module has written to standard output, for instance. This helper is not used again.
      this.end();
    }
  }

  #take(message: NameMessage): void {
    if (!("asking" in message)) {
      this.#settle((waiting) => waiting.resolve(message));
      return;
    }
    this.#asking = message.asking;
    if (this.#waiting === null) return;
    this.#cancelStalled();
    this.#cancelStalled = this.#after(this.#timeoutMs, () => this.#giveUp());
  }
}

/** The pool. */
export class NameHelpers {
  readonly #command: readonly string[];
  readonly #monotonicMs: () => number;
  readonly #timeoutMs: number;
  readonly #after: typeof after;
  readonly #all = new Set<Helper>();
  readonly #idle: Helper[] = [];
  /** Service -> when it did not answer in time. */
  readonly #slow = new Map<string, number>();
  #closed = false;

  /**
   * @param options.command this program, as a command line.
   * @param options.timeoutMs for how long a service may take; default 5 s.
   * @param options.after schedules the timeouts; default: the machine's clock.
   */
  constructor(options: {
    command: readonly string[];
    monotonicMs: () => number;
    timeoutMs?: number;
    after?: typeof after;
  }) {
    this.#command = options.command;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.#after = options.after ?? after;
    this.#monotonicMs = options.monotonicMs;
  }

  /** Starts the first helper, so that no look-up has to wait for it. A failure shows at the first look-up. */
  start(): void {
    try {
      this.#giveBack(this.#take());
    } catch {
      // The first look-up reports it.
    }
  }

  /**
   * @param options.before the last answer. Where its service is unavailable, the groups of that account are asked for, and a
   *   service that just timed out is not asked again.
   */
  byUid(uid: number, options: { before: BeforeAccount | null }): Promise<AccountAnswer> {
    const { before } = options;
    return this.#account((skip) => ({ kind: "uid", uid, before, skip }), before !== null);
  }

  /** @param options.hurry whether a service that just timed out is not asked again. */
  byName(user: string, options: { hurry: boolean }): Promise<AccountAnswer> {
    return this.#account((skip) => ({ kind: "name", user, skip }), options.hurry);
  }

  /** Asks the service of `subid:` who owns a subordinate uid. */
  async owners(service: string, uid: number): Promise<OwnersAnswer> {
    try {
      const message = await this.#ask({ kind: "owners", uid, service });
      return "owners" in message ? message.owners : { status: "unavail" };
    } catch {
      return { status: "unavail" };
    }
  }

  /** Kills the helpers; questions under way are rejected. */
  close(): void {
    this.#closed = true;
    for (const helper of this.#all) helper.end();
  }

  async #account(
    question: (skip: readonly string[]) => NameQuestion,
    hurry: boolean,
  ): Promise<AccountAnswer> {
    const skip = new Map<string, string>();
    if (hurry) for (const service of this.#slowServices()) skip.set(service, "did not answer a moment ago");
    for (;;) {
      try {
        const message = await this.#ask(question([...skip.keys()]));
        if (!("account" in message)) throw new NoAnswer("gave another answer", null);
        return explained(message.account, skip);
      } catch (error) {
        const why = error instanceof Error ? error.message : "unknown";
        const service = error instanceof NoAnswer ? error.service : null;
        if (service === null || skip.has(service)) {
          return { account: null, unavailable: [{ service: ANY_SERVICE, why: `cannot be asked: ${why}` }] };
        }
        // Another service may have the account: ask again without the one that failed.
        skip.set(service, why);
        this.#slow.set(service, this.#monotonicMs());
      }
    }
  }

  #slowServices(): string[] {
    const now = this.#monotonicMs();
    return [...this.#slow].filter(([, sinceMs]) => now - sinceMs < SLOW_MS).map(([service]) => service);
  }

  async #ask(question: NameQuestion): Promise<NameMessage> {
    const helper = this.#take();
    try {
      return await helper.ask(question);
    } finally {
      this.#giveBack(helper);
    }
  }

  /** @throws NoAnswer where no process can be started. */
  #take(): Helper {
    if (this.#closed) throw new NoAnswer("the proxy is stopping", null);
    for (let helper = this.#idle.pop(); helper !== undefined; helper = this.#idle.pop()) {
      helper.cancelIdle();
      if (!helper.ended) return helper;
    }
    try {
      const helper = new Helper(this.#command, { timeoutMs: this.#timeoutMs, after: this.#after }, (ended) =>
        this.#all.delete(ended),
      );
      this.#all.add(helper);
      return helper;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException | null)?.code ?? "unknown";
      throw new NoAnswer(`no process can be started (${code})`, null);
    }
  }

  #giveBack(helper: Helper): void {
    if (helper.ended) return;
    this.#idle.push(helper);
    helper.cancelIdle = systemClock.schedule(IDLE_MS, () => {
      const at = this.#idle.indexOf(helper);
      if (at < 0 || this.#all.size <= 1) return;
      this.#idle.splice(at, 1);
      helper.end();
    });
  }
}

/** The answer with the reason why a service was passed over. */
function explained(answer: AccountAnswer, skipped: ReadonlyMap<string, string>): AccountAnswer {
  if (skipped.size === 0) return answer;
  const reasons = (unavailable: readonly Unavailable[]) =>
    unavailable.map((one) => ({ ...one, why: skipped.get(one.service) ?? one.why }));
  const { account } = answer;
  return {
    unavailable: reasons(answer.unavailable),
    account:
      account === null
        ? null
        : {
            ...account,
            groupsUnavailable: reasons(account.groupsUnavailable),
            groups: account.groups.map((group) => ({
              ...group,
              nameUnavailable: reasons(group.nameUnavailable),
            })),
          },
  };
}
