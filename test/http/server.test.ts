import { afterEach, describe, expect, test } from "bun:test";
import { createConnection, type Socket } from "node:net";
import { type Answer, text } from "../../src/http/answer.ts";
import type { Request } from "../../src/http/request.ts";
import { type ConnectionLimits, Server } from "../../src/http/server.ts";
import type { SocketLookup } from "../../src/identity/lookup.ts";
import { NO_STORE } from "../../src/platform/socket-store.ts";
import { type Told, told } from "../support/callers.ts";
import { listenAnywhere } from "../support/listen-anywhere.ts";

const ALICE = 2001;
const HOST = "Host: 169.254.169.254";
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

/** A server whose every caller is alice, with a handler that a test writes. */
function aServer(
  handle: (request: Request) => Answer | Promise<Answer>,
  limits: Partial<ConnectionLimits> = {},
): { port: number; requests: Request[]; turnedAway: Told[] } {
  const requests: Request[] = [];
  const turnedAway: Told[] = [];
  const owner = { uid: ALICE, cgroupId: null, redirected: true };
  const server = new Server({
    handler: {
      handle: async (request) => {
        requests.push(request);
        return handle(request);
      },
    },
    serverName: "test",
    lookup: { identify: () => ({ kind: "owner", owner }) } as unknown as SocketLookup,
    // No connection becomes too old.
    monotonicMs: () => 0,
    limits: { perUser: 8, shared: 0, unknown: 8, total: 16, ...limits },
    sharePort: false,
    store: NO_STORE,
    shareOfUid: (uid) => uid,
    isContainer: () => false,
    onUnidentified: () => {},
    onTurnedAway: (event) => void turnedAway.push(told(event)),
  });
  const port = listenAnywhere((free) => server.listen({ address: "127.0.0.1", port: free }));
  cleanups.push(() => server.drain(0));
  return { port, requests, turnedAway };
}

/** A client that has said what is given, and what it got until the server closed. */
async function aClient(port: number, ...said: string[]): Promise<{ socket: Socket; all: Promise<string> }> {
  const socket = createConnection({ host: "127.0.0.1", port, allowHalfOpen: true });
  cleanups.push(() => socket.destroy());
  let got = "";
  socket.on("data", (part) => {
    got += part.toString("latin1");
  });
  const all = new Promise<string>((resolve) => {
    socket.on("end", () => {
      socket.end();
      resolve(got);
    });
    socket.on("error", () => resolve(got));
    socket.on("close", () => resolve(got));
  });
  await new Promise((resolve) => socket.once("connect", resolve));
  socket.setNoDelay(true);
  for (const part of said) {
    await new Promise((resolve) => socket.write(part, resolve));
    // Each part on its own: the server has read it when the event loop, which it shares, has turned.
    for (let turns = 0; turns < 5; turns++) await new Promise((resolve) => setImmediate(resolve));
  }
  return { socket, all };
}

const statuses = (all: string): number[] =>
  [...all.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status));

describe("the empty body in chunks that s3fs-fuse sends with the PUT of a token", () => {
  const PUT = `PUT /latest/api/token HTTP/1.1\r\n${HOST}\r\nTransfer-Encoding: chunked\r\n\r\n`;
  const GET = `GET /latest/ HTTP/1.1\r\n${HOST}\r\n\r\n`;

  const taken: [name: string, parts: string[]][] = [
    ["whole", [`${PUT}0\r\n\r\n`]],
    ["after the head", [PUT, "0\r\n\r\n"]],
    ["byte by byte", [PUT, "0", "\r", "\n", "\r", "\n"]],
  ];
  for (const [name, parts] of taken) {
    test(`is taken ${name}, answered, and the connection closed`, async () => {
      const { port, requests } = aServer(() => text("token"));
      const { all } = await aClient(port, ...parts);
      const answer = await all;
      expect(statuses(answer)).toEqual([200]);
      expect(answer).toContain("Connection: close\r\n");
      expect(requests).toHaveLength(1);
    });
  }

  test("is the last that is read of its connection: what follows is no request", async () => {
    const { port, requests, turnedAway } = aServer(() => text("token"));
    const { all } = await aClient(port, `${PUT}0\r\n\r\n${GET}`);
    expect(statuses(await all)).toEqual([200]);
    expect([requests.length, turnedAway]).toEqual([1, []]);
  });

  const refused: [name: string, parts: string[]][] = [
    ["a chunk of one byte", [`${PUT}1\r\nx\r\n0\r\n\r\n`]],
    ["two zeros", [`${PUT}00\r\n\r\n`]],
    ["an extension", [`${PUT}0;a=b\r\n\r\n`]],
    ["a trailer", [`${PUT}0\r\nX: y\r\n\r\n`]],
    ["a bare line feed", [`${PUT}0\n\n`]],
    ["a blank", [`${PUT} 0\r\n\r\n`]],
    ["another request in its place", [`${PUT}${GET}`]],
    ["another request after a part of it", [PUT, "0\r\n", GET]],
  ];
  for (const [name, parts] of refused) {
    test(`is 400 with ${name}, and the handler never sees it`, async () => {
      const { port, requests, turnedAway } = aServer(() => text("token"));
      const { all } = await aClient(port, ...parts);
      expect(statuses(await all)).toEqual([400]);
      expect(requests).toEqual([]);
      expect(turnedAway).toEqual([{ kind: "malformed", subject: ALICE, status: 400 }]);
    });
  }

  test("of which a part never comes is no request", async () => {
    const { port, requests } = aServer(() => text("token"));
    const { socket, all } = await aClient(port, PUT, "0\r\n");
    socket.end();
    expect(await all).toBe("");
    expect(requests).toEqual([]);
  });
});

describe("what is turned away before the handler is told:", () => {
  test("a malformed head", async () => {
    const { port, turnedAway } = aServer(() => text("x"));
    expect(statuses(await (await aClient(port, "G\r\n\r\n")).all)).toEqual([400]);
    expect(turnedAway).toEqual([{ kind: "malformed", subject: ALICE, status: 400 }]);
  });

  test("a request of a user of whom as many wait as may whose connections are closed", async () => {
    const waiting: (() => void)[] = [];
    const { port, turnedAway, requests } = aServer(
      () => new Promise<Answer>((resolve) => waiting.push(() => resolve(text("late")))),
      { perUser: 2 },
    );
    const get = `GET /latest/ HTTP/1.1\r\n${HOST}\r\nConnection: close\r\n\r\n`;
    // They ask and are gone: their connections make room, what they asked for goes on.
    for (let index = 0; index < 2; index++) {
      const { socket } = await aClient(port, get);
      while (requests.length <= index) await Bun.sleep(1);
      socket.resetAndDestroy();
    }
    const third = await (await aClient(port, get)).all;
    expect(statuses(third)).toEqual([503]);
    expect(third).toContain("Retry-After: 1\r\n");
    expect(turnedAway).toEqual([{ kind: "busy", subject: ALICE, status: 503 }]);
    for (const answer of waiting) answer();
  });

  test("a connection where all have requests under way", async () => {
    const waiting: (() => void)[] = [];
    const { port, turnedAway, requests } = aServer(
      () => new Promise<Answer>((resolve) => waiting.push(() => resolve(text("late")))),
      { perUser: 1 },
    );
    await aClient(port, `GET /latest/ HTTP/1.1\r\n${HOST}\r\n\r\n`);
    while (requests.length === 0) await Bun.sleep(1);
    expect(await (await aClient(port)).all).toBe("");
    expect(turnedAway).toEqual([{ kind: "crowded", subject: ALICE, status: null }]);
    for (const answer of waiting) answer();
  });
});
