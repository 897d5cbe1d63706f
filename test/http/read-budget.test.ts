import { afterEach, expect, test } from "bun:test";
import { writeSync } from "node:fs";
import { Connection } from "../../src/http/connection.ts";
import { Server } from "../../src/http/server.ts";
import type { SocketLookup } from "../../src/identity/lookup.ts";
import { NO_STORE } from "../../src/platform/socket-store.ts";
import { listenAnywhere } from "../support/listen-anywhere.ts";

/** Bun takes 1,024 events at a time, and polls again, up to 48 times, where it was given so many: so there are more connections. */
const CONNECTIONS = 1_100;
/** MAX_READS_PER_USER in src/http/scheduling.ts. */
const BUDGET = 256;
/** How many iterations of the event loop are looked at, at the least. */
const ITERATIONS = 5;

const cleanups: (() => unknown)[] = [];
const { received } = Connection.prototype;
afterEach(async () => {
  Connection.prototype.received = received;
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

test("an iteration of the event loop has 256 reads of a user, and one more of each connection, however often there is something to be read", async () => {
  const owner = { uid: 2001, cgroupId: null, redirected: true };
  const server = new Server({
    handler: { handle: () => Promise.reject(new Error("no request is whole")) },
    serverName: "test",
    lookup: { identify: () => ({ kind: "owner", owner }) } as unknown as SocketLookup,
    // No head becomes too old.
    monotonicMs: () => 0,
    limits: { perUser: 2 * CONNECTIONS, shared: 0, unknown: 8, total: 2 * CONNECTIONS },
    sharePort: false,
    store: NO_STORE,
    shareOfUid: (uid) => uid,
    isContainer: () => false,
    onUnidentified: () => {},
  });
  cleanups.push(() => server.drain(0));
  const port = listenAnywhere((free) => server.listen({ address: "127.0.0.1", port: free }));
  const clients = await Promise.all(
    Array.from({ length: CONNECTIONS }, () =>
      Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } }),
    ),
  );
  cleanups.push(() => clients.map((client) => client.terminate()));
  for (const client of clients) client.setNoDelay(true);
  while (server.counts().connections < CONNECTIONS) await new Promise(setImmediate);

  // What a client sends is its number, a part of a head that never ends. Whenever that was read, it is there again.
  const send = (number: number) => {
    const { fd } = clients[number] as unknown as { fd: number };
    writeSync(fd, String(number).padStart(4, "0"));
  };
  let reads = 0;
  Connection.prototype.received = function (bytes) {
    reads++;
    received.call(this, bytes);
    send(Number(bytes.subarray(0, 4).toString()));
  };
  for (const number of clients.keys()) send(number);
  const seen: number[] = [];
  // Until the attack has taken place as well: a kernel that is busy may bring late what was sent.
  while (seen.length < ITERATIONS || Math.max(...seen) <= BUDGET) {
    reads = 0;
    await new Promise(setImmediate);
    seen.push(reads);
  }
  expect(Math.max(...seen)).toBeLessThanOrEqual(BUDGET + CONNECTIONS);
}, 180_000);
