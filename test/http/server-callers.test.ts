import { afterEach, describe, expect, test } from "bun:test";
import { createConnection, type Socket } from "node:net";
import { ImdsProxyError } from "../../src/errors.ts";
import { type Answer, text } from "../../src/http/answer.ts";
import { limitsFor, Server, type ServerOptions } from "../../src/http/server.ts";
import type { Caller } from "../../src/identity/caller.ts";
import type { SocketLookup } from "../../src/identity/lookup.ts";
import { NO_STORE } from "../../src/platform/socket-store.ts";
import { type Told, told } from "../support/callers.ts";
import { listenAnywhere } from "../support/listen-anywhere.ts";

type Found = ReturnType<SocketLookup["identify"]>;
type Tuple = Parameters<SocketLookup["identify"]>[0];

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

const owned = (uid: number): Found => ({ kind: "owner", owner: { uid, cgroupId: null, redirected: true } });

/** A server on which each connection is whose the test says when it makes it, and everything that happens to it. */
function aServer(
  over: Partial<ServerOptions> = {},
  handle: () => Answer | Promise<Answer> = () => text("x"),
  address = "127.0.0.1",
) {
  const next: Found[] = [];
  const tuples: Tuple[] = [];
  const callers: Caller[] = [];
  const unidentified: string[] = [];
  const turnedAway: Told[] = [];
  const server = new Server({
    handler: {
      handle: async (_request, caller) => {
        callers.push(caller);
        return handle();
      },
    },
    serverName: "test",
    lookup: {
      identify: (tuple: Tuple) => {
        tuples.push(tuple);
        return next.shift() ?? owned(4711);
      },
    } as unknown as SocketLookup,
    // No connection becomes too old.
    monotonicMs: () => 0,
    limits: { perUser: 2, shared: 0, unknown: 1, total: 5 },
    sharePort: false,
    store: NO_STORE,
    shareOfUid: (uid) => (uid >= 100_000 ? "subordinates of alice" : uid),
    isContainer: (address) => address[0] === 172,
    onUnidentified: (why) => void unidentified.push(why),
    onTurnedAway: (event) => void turnedAway.push(told(event)),
    ...over,
  });
  cleanups.push(() => server.drain(0));
  const port = listenAnywhere((free) => server.listen({ address, port: free }));

  /** A connection of this caller's, once the server has accepted it. */
  async function connect(found: Found, host = "127.0.0.1") {
    const accepted = tuples.length;
    next.push(found);
    const socket = createConnection({ host, port });
    cleanups.push(() => socket.destroy());
    const client = new Client(socket);
    while (tuples.length === accepted) await turn();
    return client;
  }
  return { server, port, connect, tuples, callers, unidentified, turnedAway };
}

/** Waits for an event, which the other side causes in this same event loop. */
const turn = () => Bun.sleep(1);

class Client {
  readonly socket: Socket;
  got = "";
  closed = false;
  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (part) => {
      this.got += part.toString("latin1");
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.closed = true;
    });
  }
  /** Asks, and waits for an answer or the end. */
  async ask(): Promise<string> {
    const before = this.got.length;
    this.socket.write("GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    while (this.got.length === before && !this.closed) await turn();
    return this.got.slice(before).split("\r\n")[0] ?? "";
  }
  async end(): Promise<void> {
    while (!this.closed) await turn();
  }
}

describe("who asks is found out when a connection is accepted:", () => {
  test("by its own four numbers, once for all of its requests, before a byte is read", async () => {
    const { connect, tuples, port } = aServer();
    const client = await connect(owned(2001));
    expect(tuples).toEqual([
      {
        localAddress: Uint8Array.of(127, 0, 0, 1),
        localPort: port,
        peerAddress: Uint8Array.of(127, 0, 0, 1),
        peerPort: client.socket.localPort as number,
      },
    ]);
    for (let request = 0; request < 3; request++) expect(await client.ask()).toBe("HTTP/1.1 200 OK");
    expect(tuples).toHaveLength(1);
  });

  test("by the address that it was made to, where the server listens at every address", async () => {
    const { connect, tuples, port } = aServer({}, undefined, "0.0.0.0");
    for (const last of [1, 2]) {
      const client = await connect(owned(2001), `127.0.0.${last}`);
      expect(tuples.at(-1)).toEqual({
        localAddress: Uint8Array.of(127, 0, 0, last),
        localPort: port,
        peerAddress: Uint8Array.of(127, 0, 0, 1),
        peerPort: client.socket.localPort as number,
      });
    }
  });

  const CASES: [name: string, found: Found, caller: Caller, why: string[]][] = [
    [
      "a process, by its uid",
      owned(2001),
      { ...(owned(2001) as { kind: "owner" }), share: 2001 } as Caller,
      [],
    ],
    [
      "a process of a subordinate uid, which has its owner's share",
      owned(100_007),
      { ...(owned(100_007) as { kind: "owner" }), share: "subordinates of alice" } as Caller,
      [],
    ],
    [
      "a container, by its address",
      { kind: "refused", why: "no socket", remote: Uint8Array.of(172, 17, 0, 2) },
      { kind: "container", address: "172.17.0.2" },
      [],
    ],
    [
      "an address that is no container's: nobody",
      { kind: "refused", why: "no socket", remote: Uint8Array.of(10, 0, 0, 2) },
      { kind: "unknown" },
      ["no socket"],
    ],
    [
      "no exact answer: nobody",
      { kind: "refused", why: "two sockets" },
      { kind: "unknown" },
      ["two sockets"],
    ],
  ];
  for (const [name, found, caller, why] of CASES) {
    test(name, async () => {
      const { connect, callers, unidentified } = aServer();
      await (await connect(found)).ask();
      expect(callers).toEqual([caller]);
      expect(unidentified).toEqual(why);
    });
  }
});

describe("where a user has as many connections as may be,", () => {
  test("a further one takes the place of their own that is idle the longest, and of nobody else's", async () => {
    const { server, connect } = aServer();
    const bob = await connect(owned(2002));
    const [first, second] = [await connect(owned(2001)), await connect(owned(2001))];
    const third = await connect(owned(2001));
    await first.end();
    expect(await second.ask()).toBe("HTTP/1.1 200 OK");
    expect(await third.ask()).toBe("HTTP/1.1 200 OK");
    expect(await bob.ask()).toBe("HTTP/1.1 200 OK");
    expect(server.counts()).toEqual({ connections: 3, users: 2 });
  });

  test("all subordinate uids of an owner are one user", async () => {
    const { connect } = aServer();
    const first = await connect(owned(100_001));
    await connect(owned(100_002));
    await connect(owned(100_003));
    await first.end();
  });

  test("a further one is turned away where each of theirs has a request under way", async () => {
    const answers = Promise.withResolvers<Answer>();
    const { connect, turnedAway, callers } = aServer({}, () => answers.promise);
    const clients = [await connect(owned(2001)), await connect(owned(2001))];
    const asked = clients.map((client) => client.ask());
    while (callers.length < 2) await turn();
    await (await connect(owned(2001))).end();
    expect(turnedAway).toEqual([{ kind: "crowded", subject: 2001, status: null }]);
    answers.resolve(text("late"));
    expect(await Promise.all(asked)).toEqual(["HTTP/1.1 200 OK", "HTTP/1.1 200 OK"]);
  });

  test("callers whom nobody knows share a limit of their own, and have no name in what is told", async () => {
    const answers = Promise.withResolvers<Answer>();
    const { connect, turnedAway, callers } = aServer({}, () => answers.promise);
    const nobody: Found = { kind: "refused", why: "no socket" };
    const first = await connect(nobody);
    const asked = first.ask();
    while (callers.length === 0) await turn();
    await (await connect(nobody)).end();
    expect(turnedAway).toEqual([{ kind: "crowded", subject: null, status: null }]);
    answers.resolve(text("late"));
    await asked;
  });
});

describe("beyond what each user may have there are connections for all users together:", () => {
  const limits = { perUser: 2, shared: 2, unknown: 1, total: 20 };
  const many = async (connect: (found: Found) => Promise<Client>, uid: number, count: number) => {
    const clients: Client[] = [];
    while (clients.length < count) clients.push(await connect(owned(uid)));
    return clients;
  };

  test("one user has them all while nobody else wants any, and no more than that", async () => {
    const { server, connect } = aServer({ limits });
    const alice = await many(connect, 2001, 4);
    expect(server.counts().connections).toBe(4);
    await connect(owned(2001));
    await alice[0]?.end();
    expect(server.counts().connections).toBe(4);
    for (const one of alice.slice(1)) expect(await one.ask()).toBe("HTTP/1.1 200 OK");
  });

  test("of those who are over it, whoever has most gives one up to another; who is under it loses none", async () => {
    const { server, connect } = aServer({ limits });
    const alice = await many(connect, 2001, 4);
    const bob = await many(connect, 2002, 2);
    const carol = await many(connect, 2003, 1);
    // Bob's third is one of those that alice has.
    bob.push(await connect(owned(2002)));
    await alice[0]?.end();
    expect(server.counts()).toEqual({ connections: 7, users: 3 });
    for (const one of [...alice.slice(1), ...bob, ...carol]) expect(await one.ask()).toBe("HTTP/1.1 200 OK");
  });

  test("where each of the largest user's has a request under way, one of the user's own is closed", async () => {
    const answers = Promise.withResolvers<Answer>();
    const { connect, callers } = aServer({ limits }, () => answers.promise);
    const alice = await many(connect, 2001, 4);
    const asked = alice.map((one) => one.ask());
    while (callers.length < 4) await turn();
    const bob = await many(connect, 2002, 3);
    await bob[0]?.end();
    answers.resolve(text("late"));
    expect(await Promise.all(asked)).toEqual(Array(4).fill("HTTP/1.1 200 OK"));
    expect(await bob[2]?.ask()).toBe("HTTP/1.1 200 OK");
  });

  test("what is closed is free for others", async () => {
    const { server, connect } = aServer({ limits });
    for (const one of await many(connect, 2001, 4)) one.socket.resetAndDestroy();
    while (server.counts().connections > 0) await turn();
    await many(connect, 2002, 4);
    expect(server.counts()).toEqual({ connections: 4, users: 1 });
  });

  test("callers whom nobody knows have none of them", async () => {
    const { server, connect } = aServer({ limits });
    await connect({ kind: "refused", why: "no socket" });
    await connect({ kind: "refused", why: "no socket" });
    await many(connect, 2001, 4);
    expect(server.counts().connections).toBe(5);
  });
});

test("where all have as many connections as may be, whoever has most gives one up", async () => {
  const { server, connect } = aServer({ limits: { perUser: 3, shared: 0, unknown: 1, total: 4 } });
  const crowd = [await connect(owned(2001)), await connect(owned(2001)), await connect(owned(2001))];
  const bob = await connect(owned(2002));
  const carol = await connect(owned(2003));
  await crowd[0]?.end();
  expect([await bob.ask(), await carol.ask()]).toEqual(["HTTP/1.1 200 OK", "HTTP/1.1 200 OK"]);
  expect(server.counts()).toEqual({ connections: 4, users: 3 });
});

test("what is closed is counted no more", async () => {
  const { server, connect } = aServer();
  const client = await connect(owned(2001));
  expect(server.counts()).toEqual({ connections: 1, users: 1 });
  client.socket.end();
  while (server.counts().connections > 0) await turn();
  expect(server.counts()).toEqual({ connections: 0, users: 0 });
});

test("limitsFor() leaves files for everything else, and room for somebody where there are few", () => {
  expect(limitsFor(65_536)).toEqual({ perUser: 1_024, shared: 4_096, unknown: 64, total: 65_280 });
  expect(limitsFor(4_096)).toMatchObject({ shared: 960, total: 3_840 });
  expect(limitsFor(256).total).toBe(64);
});

describe("drain()", () => {
  test("accepts nothing more, ends what is idle, and lets a request that is under way be answered", async () => {
    const answers = Promise.withResolvers<Answer>();
    const { server, port, connect, callers } = aServer({}, () =>
      callers.length === 1 ? text("first") : answers.promise,
    );
    const [idle, busy] = [await connect(owned(2001)), await connect(owned(2002))];
    // Idle is who has had an answer; who has not is given a second for the request.
    expect(await idle.ask()).toBe("HTTP/1.1 200 OK");
    const asked = busy.ask();
    while (callers.length < 2) await turn();
    let done = false;
    const drained = server.drain(60_000).then(() => {
      done = true;
    });
    await idle.end();
    const late = createConnection({ host: "127.0.0.1", port });
    const refused = await new Promise<string>((resolve) =>
      late.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "")),
    );
    expect([refused, done]).toEqual(["ECONNREFUSED", false]);
    answers.resolve(text("late"));
    expect(await asked).toBe("HTTP/1.1 200 OK");
    expect(busy.got).toContain("Connection: close\r\n");
    await drained;
    expect(server.counts().connections).toBe(0);
  });

  test("waits no longer than it is told, and then ends what is left", async () => {
    const { server, connect, callers } = aServer({}, () => new Promise<Answer>(() => {}));
    const client = await connect(owned(2001));
    const asked = client.ask();
    while (callers.length === 0) await turn();
    await server.drain(0);
    await client.end();
    expect(await asked).toBe("");
  });
});

describe("listen() says what is wrong:", () => {
  const failure = (server: Server, address: string, port: number): ImdsProxyError => {
    try {
      server.listen({ address, port });
    } catch (error) {
      if (error instanceof ImdsProxyError) return error;
      throw error;
    }
    throw new Error("it listens");
  };
  test("a port that is taken, and how to see by whom", () => {
    const { port } = aServer();
    const { server } = aServer();
    const error = failure(server, "127.0.0.1", port);
    expect([error.code, error.problem]).toEqual([
      "port-taken",
      `cannot listen on 127.0.0.1:${port}: the port is taken`,
    ]);
    expect(error.remedy).toContain(`ss -ltnp 'sport = :${port}'`);
  });
  test("an address that is none of this node", () => {
    // 192.0.2.0/24 is nobody's (RFC 5737).
    const error = failure(aServer().server, "192.0.2.1", 8080);
    expect([error.code, error.problem]).toEqual([
      "missing",
      "cannot listen on 192.0.2.1:8080: EADDRNOTAVAIL",
    ]);
  });
  test("what is no address", () => {
    expect(failure(aServer().server, "localhost", 8080)).toMatchObject({ code: "missing" });
  });
});

describe("a socket that systemd kept", () => {
  test("is kept under a name of its endpoint's", () => {
    const kept: string[] = [];
    const { port } = aServer({ store: { ...NO_STORE, keep: (name) => void kept.push(name) } });
    expect(kept.at(-1)).toBe(`listen-127.0.0.1-${port}`);
  });

  test("that is none is forgotten, and the server listens anew", async () => {
    const forgotten: string[] = [];
    // No process has so many files: a descriptor that is not open.
    const store = { ...NO_STORE, take: () => 1_000_000, forget: (name: string) => void forgotten.push(name) };
    const { port, connect } = aServer({ store });
    expect(forgotten.at(-1)).toBe(`listen-127.0.0.1-${port}`);
    expect(await (await connect(owned(2001))).ask()).toBe("HTTP/1.1 200 OK");
  });
});
