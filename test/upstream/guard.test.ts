import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { parseAddress } from "../../src/identity/address.ts";
import { SocketLookup } from "../../src/identity/lookup.ts";
import type { ConnectionGuard, UpstreamGuard, Verdict } from "../../src/upstream/connection.ts";
import { addressesOfThisNode, upstreamGuard } from "../../src/upstream/guard.ts";
import { FakeKernel, type FakeSocket, type FakeTuple } from "../support/fake-kernel.ts";
import { fuzzRuns, holds } from "../support/fuzz.ts";

const bytes = (text: string): Uint8Array => {
  const found = parseAddress(text);
  if (found === null) throw new Error(`no address: ${text}`);
  return found;
};

const AGENT = { address: "169.254.0.2", port: 9_081 };
const OURS = { address: "169.254.0.2", port: 40_000 };
const TO_US: FakeTuple = {
  sourceAddress: bytes(AGENT.address),
  sourcePort: AGENT.port,
  destinationAddress: bytes(OURS.address),
  destinationPort: OURS.port,
};
const LISTENING: FakeTuple = { ...TO_US, destinationAddress: bytes("0.0.0.0"), destinationPort: 0 };
const ALICE = 2001;
const SYSTEM_ACCOUNT = 990;

interface Logged {
  readonly level: "warn" | "error";
  readonly message: string;
  readonly why: unknown;
}

/** A guard over a kernel that a test sets up. */
function guarded(options: { trusted?: number[]; isLocal?: () => boolean } = {}) {
  const kernel = new FakeKernel();
  const logged: Logged[] = [];
  const write = (level: Logged["level"]) => (message: string, fields?: Readonly<Record<string, unknown>>) => {
    logged.push({ level, message, why: fields?.["why"] });
  };
  const guard = upstreamGuard({
    lookup: new SocketLookup({ diag: kernel.diag, conntrack: kernel.conntrack }),
    trusted: new Set(options.trusted ?? []),
    log: { warn: write("warn"), error: write("error") },
    monotonicMs: () => 0,
    isLocal: options.isLocal ?? (() => true),
  });
  const show = (...sockets: FakeSocket[]) => kernel.sockets.splice(0, kernel.sockets.length, ...sockets);
  return { kernel, guard, logged, show };
}

function opened(guard: UpstreamGuard): ConnectionGuard {
  const found = guard.open(AGENT);
  if ("refused" in found) throw new Error(found.refused);
  return found;
}
const refusalOf = (guard: UpstreamGuard): string | null => {
  const found = guard.open(AGENT);
  return "refused" in found ? found.refused : null;
};
/** The verdict, with what it says where it says something. */
const said = (verdict: Verdict): string =>
  verdict.kind === "refused"
    ? `refused: ${verdict.why}`
    : verdict.kind === "waiting"
      ? `waiting: ${verdict.giveUp()}`
      : verdict.kind;

const listener = (uid: number, inode = 70): FakeSocket => ({ tuple: LISTENING, uid, inode, state: 10 });
const connection = (uid: number, inode = 71, state = 1): FakeSocket => ({ tuple: TO_US, uid, inode, state });

describe("before a connection is made", () => {
  for (const [who, uid, trusted] of [
    ["root", 0, []],
    ["a system account", SYSTEM_ACCOUNT, []],
    ["an exempt user", ALICE, [ALICE]],
  ] as const) {
    test(`${who} may listen there`, () => {
      const { guard, show } = guarded({ trusted: [...trusted] });
      show(listener(uid));
      expect(refusalOf(guard)).toBeNull();
    });
  }

  test("a user may not: the text names them, and the log says what can be done", () => {
    const { guard, show, logged } = guarded();
    show(listener(ALICE));
    expect(refusalOf(guard)).toContain("uid 2001 answers at 169.254.0.2:9081");
    expect(logged).toEqual([
      {
        level: "error",
        message: "somebody answers in the upstream's place",
        why: expect.stringContaining("uid 2001 answers at 169.254.0.2:9081"),
      },
    ]);
  });

  test("nor one who listens on every address", () => {
    const { guard, show } = guarded();
    show({ ...listener(ALICE), tuple: { ...LISTENING, sourceAddress: bytes("0.0.0.0") } });
    expect(refusalOf(guard)).toContain("uid 2001 answers");
    show({ ...listener(ALICE), tuple: { ...LISTENING, sourceAddress: bytes("0.0.0.0") }, mapped: true });
    expect(refusalOf(guard)).toContain("uid 2001 answers");
  });

  test("nobody is nobody: no connection is tried, and none is trusted that an address may still get", () => {
    const { guard, logged } = guarded();
    expect(refusalOf(guard)).toBe("nobody listens at 169.254.0.2:9081");
    expect(logged.map(({ level, message }) => [level, message])).toEqual([["warn", "the upstream is away"]]);
  });

  test("a kernel that does not tell is not believed", () => {
    const { guard, kernel, show } = guarded();
    show(listener(0));
    kernel.diagErrno = 1;
    expect(refusalOf(guard)).toContain("errno 1");
  });
});

describe("a connection", () => {
  test("is trusted once root has accepted it, and not before", () => {
    const { guard, show } = guarded();
    show(listener(0));
    const watch = opened(guard);
    for (const state of [1, 3, 8]) {
      show(listener(0), connection(0, 0, state));
      expect(said(watch.check(OURS))).toBe(
        "waiting: the agent at 169.254.0.2:9081 does not accept connections (slow, or stopped)",
      );
    }
    show(listener(0), connection(0));
    expect(watch.check(OURS)).toEqual({ kind: "trusted" });
  });

  test("that waits is nobody's, whatever uid the kernel gives for it", () => {
    for (const uid of [0, ALICE]) {
      const { guard, show } = guarded();
      show(listener(0));
      const watch = opened(guard);
      show(listener(0), connection(uid, 0));
      expect(watch.check(OURS).kind).toBe("waiting");
    }
  });

  test("is still waited for where the listener's queue is full, so that no socket has it", () => {
    const { guard, show } = guarded();
    show(listener(0));
    const watch = opened(guard);
    expect(watch.check(OURS).kind).toBe("waiting");
    show(listener(0), connection(0));
    expect(watch.check(OURS).kind).toBe("trusted");
  });

  test("is refused where a user has accepted it", () => {
    const { guard, show } = guarded();
    show(listener(0));
    const watch = opened(guard);
    show(listener(0), connection(ALICE));
    expect(said(watch.check(OURS))).toBe("refused: uid 2001 answers at 169.254.0.2:9081");
  });

  test("is refused where it waits in a user's queue, or in nobody's", () => {
    const { guard, show } = guarded();
    show(listener(0));
    const watch = opened(guard);
    show(listener(ALICE), connection(0, 0));
    expect(said(watch.check(OURS))).toContain("refused: uid 2001 answers");
    show(connection(0, 0));
    expect(said(watch.check(OURS))).toBe("refused: nobody listens at 169.254.0.2:9081");
  });

  test("is refused where the kernel accepted it for a listener that a user had meanwhile", () => {
    const { guard, show } = guarded();
    show(listener(0, 70));
    const watch = opened(guard);
    // Root's by its uid, as below an AF_SMC listener, and root listens again: on another socket.
    show(listener(0, 99), connection(0));
    expect(said(watch.check(OURS))).toContain("refused: 169.254.0.2:9081: another socket listens there");
    show(connection(0));
    expect(watch.check(OURS).kind).toBe("refused");
  });

  test("that nobody has any more before it was known whose it was is nobody's", () => {
    for (const state of [4, 5, 6, 7, 9]) {
      const { guard, show } = guarded();
      show(listener(0));
      const watch = opened(guard);
      show(listener(0), connection(0, 0, state));
      expect([state, said(watch.check(OURS))]).toEqual([
        state,
        "refused: 169.254.0.2:9081 closed the connection before it was known who that was",
      ]);
    }
  });

  test("stays root's: while it is kept, after the agent's listener has gone, and with a user's in its place", () => {
    const { guard, show } = guarded();
    show(listener(0));
    const watch = opened(guard);
    show(listener(0), connection(0));
    expect(watch.check(OURS).kind).toBe("trusted");
    show(connection(0));
    expect(watch.check(OURS).kind).toBe("trusted");
    show(listener(ALICE), connection(0));
    expect(watch.check(OURS).kind).toBe("trusted");
  });

  test("that root accepted and closed is gone: its answer is root's, and it is not used again", () => {
    for (const then of [[connection(0, 0, 5)], [connection(0, 0, 6)], [], [listener(ALICE)]]) {
      const { guard, show } = guarded();
      show(listener(0));
      const watch = opened(guard);
      show(listener(0), connection(0));
      expect(watch.check(OURS).kind).toBe("trusted");
      show(...then);
      expect(watch.check(OURS).kind).toBe("gone");
    }
  });
});

describe("an upstream elsewhere", () => {
  test("has no socket here, and the network vouches for it, whoever listens on that port of this node", () => {
    const { guard, show, logged } = guarded({ isLocal: () => false });
    show({ ...listener(ALICE), tuple: { ...LISTENING, sourceAddress: bytes("0.0.0.0") } });
    expect(opened(guard).check(OURS).kind).toBe("trusted");
    expect(logged).toEqual([]);
  });

  test("whose connection ends in a socket of this node is judged by that", () => {
    const { guard, show } = guarded({ isLocal: () => false });
    show(connection(ALICE));
    expect(said(opened(guard).check(OURS))).toContain("uid 2001 answers");
    show(listener(ALICE), connection(0, 0));
    expect(said(opened(guard).check(OURS))).toContain("uid 2001 answers");
    show(listener(0), connection(0));
    expect(opened(guard).check(OURS).kind).toBe("trusted");
  });

  test("that becomes an address of this node, or ceases to be one, is judged as it is at that time", () => {
    let local = false;
    const { guard, show } = guarded({ isLocal: () => local });
    const watch = opened(guard);
    expect(watch.check(OURS).kind).toBe("trusted");
    local = true;
    // The connection leads to nobody here.
    expect(watch.check(OURS).kind).toBe("refused");
    expect(refusalOf(guard)).toContain("nobody listens");
    show(listener(0));
    const here = opened(guard);
    local = false;
    // It was made to a socket of this node, and stays that.
    expect(here.check(OURS).kind).toBe("waiting");
    expect(opened(guard).check(OURS).kind).toBe("trusted");
  });
});

test("each kind of complaint is logged once a minute, and none hides another", () => {
  const { guard, show, logged } = guarded();
  for (let round = 0; round < 3; round++) {
    show();
    guard.open(AGENT);
    show(listener(ALICE));
    guard.open(AGENT);
    show(listener(0));
    const watch = opened(guard);
    said(watch.check(OURS));
  }
  expect(logged.map(({ message }) => message)).toEqual([
    "the upstream is away",
    "somebody answers in the upstream's place",
    "the upstream does not accept connections",
  ]);
});

/**
 * A node with one address, two parties who want it, and a client; what really happened is kept beside what is seen. A socket that is
 * bound and does not listen takes no connection, so bind() is no step of its own; a SYN that a full queue dropped and that is sent
 * again is "client connects" at a later step.
 */
class World {
  readonly #parts = guarded();
  readonly #pendingUid: "root's" | "listener's";
  #inode = 100;
  #listener: { by: "agent" | "alice"; inode: number } | null = null;
  /** To whom the connection really leads, and whose uid its socket has; null where nobody has accepted it. */
  #connection: {
    by: "agent" | "alice";
    listener: number;
    uid: number | null;
    inode: number;
    closed: boolean;
  } | null = null;
  #watch: ConnectionGuard | null = null;
  #state: "idle" | "opened" | "connected" | "asked" = "idle";
  /** Requests that were sent to the agent, and answers of it that were believed. */
  sent = 0;
  believed = 0;

  /** @param pendingUid what the kernel gives for a socket that nobody has accepted: root's before Linux 6.17. */
  constructor(pendingUid: "root's" | "listener's") {
    this.#pendingUid = pendingUid;
  }

  /** Lets something happen; false where it cannot. */
  happen(event: Happening): boolean {
    const done = this.#happen(event);
    if (done) this.#show();
    return done;
  }

  #happen(event: Happening): boolean {
    const pending = this.#connection !== null && this.#connection.uid === null && !this.#connection.closed;
    switch (event) {
      case "agent listens":
        return this.#listen("agent");
      case "alice listens":
        return this.#listen("alice");
      case "agent closes its listener":
        return this.#unlisten("agent");
      case "alice closes her listener":
        return this.#unlisten("alice");
      case "agent accepts":
        return pending && this.#accept("agent", 0);
      case "alice accepts":
        return pending && this.#accept("alice", ALICE);
      case "the kernel accepts for alice":
        return pending && this.#accept("alice", 0);
      case "the connection is closed there":
        if (this.#connection === null || this.#connection.uid === null || this.#connection.closed)
          return false;
        this.#connection.closed = true;
        return true;
      case "client looks": {
        if (this.#state !== "idle") return false;
        const found = this.#parts.guard.open(AGENT);
        if ("refused" in found) return true;
        this.#watch = found;
        this.#state = "opened";
        return true;
      }
      case "client connects":
        if (this.#state !== "opened") return false;
        if (this.#listener === null) this.#giveUp();
        else {
          this.#connection = {
            by: this.#listener.by,
            listener: this.#listener.inode,
            uid: null,
            inode: 0,
            closed: false,
          };
          this.#state = "connected";
        }
        return true;
      case "client asks": {
        if (this.#state !== "connected") return false;
        const verdict = this.#watch?.check(OURS).kind;
        if (verdict === "waiting") return true;
        if (verdict !== "trusted") {
          this.#giveUp();
          return true;
        }
        // Not a byte to anybody else.
        expect(this.#connection?.by).toBe("agent");
        this.sent++;
        this.#state = "asked";
        return true;
      }
      case "client gets an answer": {
        if (this.#state !== "asked") return false;
        const verdict = this.#watch?.check(OURS).kind;
        if (verdict === "trusted" || verdict === "gone") {
          expect(this.#connection?.by).toBe("agent");
          this.believed++;
        }
        if (verdict === "trusted") this.#state = "connected";
        else this.#giveUp();
        return true;
      }
    }
  }

  #listen(by: "agent" | "alice"): boolean {
    if (this.#listener !== null) return false;
    this.#listener = { by, inode: ++this.#inode };
    return true;
  }

  #unlisten(by: "agent" | "alice"): boolean {
    if (this.#listener?.by !== by) return false;
    // What nobody has accepted is reset with its listener (inet_csk_listen_stop).
    if (this.#connection?.uid === null) this.#connection.closed = true;
    this.#listener = null;
    return true;
  }

  #accept(by: "agent" | "alice", uid: number): boolean {
    if (this.#connection?.by !== by) return false;
    this.#connection.uid = uid;
    this.#connection.inode = ++this.#inode;
    return true;
  }

  #giveUp(): void {
    this.#state = "idle";
    this.#watch = null;
    this.#connection = null;
  }

  #show(): void {
    const sockets: FakeSocket[] = [];
    if (this.#listener !== null)
      sockets.push(listener(this.#listener.by === "agent" ? 0 : ALICE, this.#listener.inode));
    const held = this.#connection;
    if (held !== null && !(held.closed && held.uid === null)) {
      const pendingUid = this.#pendingUid === "root's" || held.by === "agent" ? 0 : ALICE;
      sockets.push(
        held.uid === null
          ? connection(pendingUid, 0)
          : held.closed
            ? connection(held.uid, 0, 5)
            : connection(held.uid, held.inode),
      );
    }
    this.#parts.show(...sockets);
  }
}

const HAPPENINGS = [
  "agent listens",
  "agent closes its listener",
  "agent accepts",
  "alice listens",
  "alice closes her listener",
  "alice accepts",
  "the kernel accepts for alice",
  "the connection is closed there",
  "client looks",
  "client connects",
  "client asks",
  "client gets an answer",
] as const;
type Happening = (typeof HAPPENINGS)[number];

describe("over the orders in which two parties listen, accept and close, alice is never sent to or believed", () => {
  for (const pendingUid of ["root's", "listener's"] as const) {
    test(`all of up to 10 steps; a connection that waits is ${pendingUid}`, () => {
      let orders = 0;
      let believed = 0;
      const explore = (steps: Happening[]): void => {
        let world: World | null = null;
        for (const next of HAPPENINGS) {
          // What cannot happen leaves the world as it was, so it serves for the next attempt.
          if (world === null) {
            world = new World(pendingUid);
            for (const step of steps) world.happen(step);
          }
          if (!world.happen(next)) continue;
          orders++;
          believed += world.believed;
          world = null;
          if (steps.length < 9) explore([...steps, next]);
        }
      };
      explore(["agent listens"]);
      explore(["alice listens"]);
      expect(orders).toBeGreaterThan(5_000);
      expect(believed).toBeGreaterThan(0);
    });

    test(`longer ones at random; a connection that waits is ${pendingUid}`, () => {
      let believed = 0;
      holds(
        fc.property(fc.array(fc.constantFrom(...HAPPENINGS), { minLength: 10, maxLength: 80 }), (steps) => {
          const world = new World(pendingUid);
          for (const step of steps) world.happen(step);
          believed += world.believed;
        }),
        3_000,
      );
      // An answer that is believed is rare among random steps: the short run of `make unit` may meet none.
      if (fuzzRuns(3_000) >= 3_000) expect(believed).toBeGreaterThan(0);
    });
  }
});

describe("addressesOfThisNode()", () => {
  test("the interfaces are looked at once a second at most, for their list can be made to take half a second", () => {
    let nowMs = 0;
    let looks = 0;
    let found = ["10.0.0.5", "fe80::1"];
    const isLocal = addressesOfThisNode(
      () => nowMs,
      () => {
        looks++;
        return found;
      },
    );
    expect(["10.0.0.5", "fe80::1", AGENT.address].map((one) => isLocal(bytes(one)))).toEqual([
      true,
      true,
      false,
    ]);
    found = [AGENT.address];
    nowMs = 999;
    expect(isLocal(bytes(AGENT.address))).toBe(false);
    expect(looks).toBe(1);
    nowMs = 1_000;
    expect([AGENT.address, "10.0.0.5"].map((one) => isLocal(bytes(one)))).toEqual([true, false]);
    expect(looks).toBe(2);
  });
  test("127.0.0.0/8 is this node's, whatever its interfaces have", () => {
    const isLocal = addressesOfThisNode(
      () => 0,
      () => [],
    );
    expect(["127.0.0.1", "127.9.8.7", "10.0.0.5"].map((one) => isLocal(bytes(one)))).toEqual([
      true,
      true,
      false,
    ]);
  });
});
