import { afterEach, expect, test } from "bun:test";
import { createServer, type Server, type Socket } from "node:net";
import type { Endpoint } from "../../src/identity/endpoint.ts";
import { UpstreamClient } from "../../src/upstream/client.ts";
import type { UpstreamGuard, Verdict } from "../../src/upstream/connection.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { patientClock } from "../support/patient-clock.ts";

const GET = { method: "GET", path: "/latest/meta-data/hostname", headers: {} } as const;
const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const TRUSTED: Verdict = { kind: "trusted" };
const WAITING: Verdict = { kind: "waiting", giveUp: () => "it does not accept" };
const REFUSED: Verdict = { kind: "refused", why: "uid 2001 answers there" };

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

/** A service whose answers a test writes; what it was sent is kept. */
async function service(onRequest: (socket: Socket, heads: readonly string[]) => void) {
  const heads: string[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    let unread = "";
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      unread += bytes.toString("latin1");
      for (let end = unread.indexOf("\r\n\r\n"); end >= 0; end = unread.indexOf("\r\n\r\n")) {
        heads.push(unread.slice(0, end));
        unread = unread.slice(end + 4);
        onRequest(socket, heads);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  ends.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const at = server.address();
  if (at === null || typeof at === "string") throw new Error("it listens nowhere");
  const endpoint: Endpoint = { address: "127.0.0.1", port: at.port };
  return { endpoint, heads, connections: () => sockets.size };
}

/** A guard that gives these verdicts one after the other, and the last one for ever; what it was asked is counted. */
function scripted(...verdicts: Verdict[]): UpstreamGuard & { asked: number; opened: number } {
  const guard = {
    asked: 0,
    opened: 0,
    open() {
      guard.opened++;
      return { check: () => verdicts[Math.min(guard.asked++, verdicts.length - 1)] ?? REFUSED };
    },
  };
  return guard;
}

function clientOf(guard: UpstreamGuard, clock = patientClock): UpstreamClient {
  const client = new UpstreamClient({ guard, clock });
  ends.push(() => client.close());
  return client;
}
const failure = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "answered",
    (error: Error) => error.message,
  );

test("a connection that must not be made is not made", async () => {
  const { endpoint, connections } = await service((socket) => socket.write(OK));
  const client = clientOf({ open: () => ({ refused: "nobody listens there" }) });
  expect(await failure(client.send(endpoint, GET))).toBe("nobody listens there");
  expect(connections()).toBe(0);
});

test("the other end is looked at once before the request, without waiting, and once at the answer", async () => {
  const { endpoint } = await service((socket) => socket.write(OK));
  const guard = scripted(TRUSTED);
  // A clock that stands still: whatever waited for a timer would wait for ever.
  const client = clientOf(guard, new FakeClock());
  expect((await client.send(endpoint, GET)).body).toBe("ok");
  expect(guard.asked).toBe(2);
});

test("not a byte is sent to one who has not accepted the connection; once they have, the request goes on", async () => {
  const { endpoint, heads } = await service((socket) => socket.write(OK));
  const seen: number[] = [];
  const verdicts = [WAITING, WAITING, WAITING, WAITING, TRUSTED];
  const client = clientOf({
    open: () => ({
      check: () => {
        seen.push(heads.length);
        return verdicts.shift() ?? TRUSTED;
      },
    }),
  });
  expect((await client.send(endpoint, GET)).body).toBe("ok");
  // Five looks before the request, one at the answer.
  expect(seen).toEqual([0, 0, 0, 0, 0, 1]);
});

test("who never accepts is waited for half a second, and is said to be slow; nothing was sent", async () => {
  const { endpoint, heads, connections } = await service((socket) => socket.write(OK));
  const clock = new FakeClock();
  const guard = scripted(WAITING);
  let waitedMs = 0;
  const client = clientOf(guard, {
    now: () => clock.now(),
    schedule(delayMs, run) {
      // The limit of the whole request is not what ends it.
      if (delayMs >= 2_000) return () => {};
      waitedMs += delayMs;
      return clock.schedule(delayMs, run);
    },
  } as FakeClock);
  const found = failure(client.send(endpoint, GET));
  let isOver = false;
  void found.then(() => {
    isOver = true;
  });
  while (!isOver) await clock.advance(50);
  expect(await found).toBe("it does not accept");
  expect(waitedMs).toBe(500);
  expect([heads, connections()]).toEqual([[], 1]);
});

test("who is not trusted is sent nothing", async () => {
  for (const verdicts of [[REFUSED], [WAITING, REFUSED]]) {
    const { endpoint, heads } = await service((socket) => socket.write(OK));
    const client = clientOf(scripted(...verdicts));
    expect(await failure(client.send(endpoint, GET))).toBe("uid 2001 answers there");
    expect(heads).toEqual([]);
  }
});

test("an answer is believed by the verdict at that time alone", async () => {
  for (const [verdict, expected] of [
    [REFUSED, "uid 2001 answers there"],
    [WAITING, "nobody owns what answered"],
    [{ kind: "gone" }, "answered"],
  ] as const) {
    const { endpoint } = await service((socket) => socket.write(OK));
    const guard = scripted(TRUSTED, verdict);
    const client = clientOf(guard);
    expect([verdict.kind, await failure(client.send(endpoint, GET))]).toEqual([verdict.kind, expected]);
    // None of these connections is used again.
    await failure(client.send(endpoint, GET));
    expect(guard.opened).toBe(2);
  }
});

test("a connection is kept for the next request, and looked at before it", async () => {
  const { endpoint, connections } = await service((socket) => socket.write(OK));
  const guard = scripted(TRUSTED);
  const client = clientOf(guard);
  for (let i = 0; i < 3; i++) await client.send(endpoint, GET);
  expect([connections(), guard.opened, guard.asked]).toEqual([1, 1, 6]);
});

test("a kept connection that is not trusted any more is left, and another is made", async () => {
  const { endpoint, heads, connections } = await service((socket) => socket.write(OK));
  const guard = scripted(TRUSTED, TRUSTED, REFUSED, TRUSTED);
  const client = clientOf(guard);
  for (let i = 0; i < 2; i++) await client.send(endpoint, GET);
  expect([connections(), guard.opened, heads.length]).toEqual([2, 2, 2]);
});

test("a kept connection that the service closes just then costs nobody an answer; a fresh one that it closes does", async () => {
  const { endpoint } = await service((socket, heads) => {
    if (heads.length === 2) socket.destroy();
    else if (heads.length < 4) socket.write(OK);
    else socket.destroy();
  });
  const client = clientOf(scripted(TRUSTED));
  expect((await client.send(endpoint, GET)).body).toBe("ok");
  expect((await client.send(endpoint, GET)).body).toBe("ok");
  client.closeIdle();
  expect(await failure(client.send(endpoint, GET))).toContain("no answer");
});

test("an answer that comes in pieces is whole; one that breaks off is none", async () => {
  const { endpoint } = await service(async (socket, heads) => {
    for (const byte of OK.slice(0, heads.length === 1 ? undefined : -1)) {
      socket.write(byte);
      await Bun.sleep(0);
    }
    socket.end();
  });
  const client = clientOf(scripted(TRUSTED));
  expect((await client.send(endpoint, GET)).body).toBe("ok");
  expect(await failure(client.send(endpoint, GET))).toContain("closed the connection within its answer");
});

test("what nobody asked for is no answer to the next request", async () => {
  const { endpoint, connections } = await service((socket) => socket.write(OK + OK));
  const client = clientOf(scripted(TRUSTED));
  for (let i = 0; i < 3; i++) expect((await client.send(endpoint, GET)).body).toBe("ok");
  expect(connections()).toBe(3);
});

test("eight requests are under way at once, and the rest come after them", async () => {
  const waiting: Socket[] = [];
  let most = 0;
  const { endpoint } = await service((socket) => {
    waiting.push(socket);
    most = Math.max(most, waiting.length);
    setImmediate(() => {
      if (waiting.length > 0) waiting.shift()?.write(OK);
    });
  });
  const client = clientOf(scripted(TRUSTED));
  const all = await Promise.all(Array.from({ length: 40 }, () => client.send(endpoint, GET)));
  expect(all.map(({ body }) => body)).toEqual(Array(40).fill("ok"));
  expect(most).toBeLessThanOrEqual(8);
});

test("who does not answer is waited for two seconds, the wait for a connection included", async () => {
  const { endpoint, heads } = await service(() => {});
  const clock = new FakeClock();
  const client = clientOf(scripted(TRUSTED), clock);
  const requests = Array.from({ length: 10 }, () => failure(client.send(endpoint, GET)));
  while (heads.length < 8) await Bun.sleep(1);
  await clock.advance(1_999);
  let over = 0;
  for (const one of requests) void one.then(() => over++);
  await clock.advance(0);
  expect(over).toBe(0);
  await clock.advance(1);
  expect(new Set(await Promise.all(requests))).toEqual(
    new Set([`no answer from 127.0.0.1:${endpoint.port} within 2000 ms`]),
  );
});

test("where nobody listens, the text says so and where", async () => {
  const { endpoint } = await service(() => {});
  for (const end of ends.splice(0)) end();
  const client = clientOf(scripted(TRUSTED));
  expect(await failure(client.send(endpoint, GET))).toBe(
    `nobody listens at 127.0.0.1:${endpoint.port} (ECONNREFUSED)`,
  );
});
