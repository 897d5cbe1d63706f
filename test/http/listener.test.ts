import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { Listener } from "../../src/http/listener.ts";
import { ListenError } from "../../src/platform/listening-socket.ts";
import { freePort, listenAnywhere } from "../support/listen-anywhere.ts";

type Accept = NonNullable<ConstructorParameters<typeof Listener<undefined>>[0]["accept"]>;

const LOOPBACK = Uint8Array.of(127, 0, 0, 1);
const opened: { close(): void }[] = [];
afterEach(() => {
  for (const one of opened.splice(0)) one.close();
});

const byBun: Accept = (descriptor, handlers) =>
  Bun.listen<undefined>({
    ...({ fd: descriptor } as unknown as { hostname: string; port: number }),
    socket: handlers,
  });

function aListener(
  accept: Accept | undefined,
  onFailure: (code: string) => void,
  onOpen = () => {},
  lookMs?: number,
) {
  let listener: Listener<undefined> | undefined;
  const port = listenAnywhere((free) => {
    listener = new Listener<undefined>({
      address: LOOPBACK,
      port: free,
      backlog: 128,
      sharePort: false,
      inherited: null,
      handlers: {
        open(socket) {
          onOpen();
          socket.end();
        },
        data() {},
      },
      monotonicMs: () => performance.now(),
      onFailure,
      ...(accept === undefined ? {} : { accept }),
      ...(lookMs === undefined ? {} : { lookMs }),
    });
  });
  if (listener === undefined) throw new Error("it does not listen");
  opened.push(listener);
  return { listener, port };
}

/** Connects and waits until the other side has closed. */
const visit = (port: number) =>
  new Promise<void>((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.on("error", reject);
    socket.on("close", () => resolve());
    socket.resume();
  });

const outOfFiles: Accept = (descriptor) => {
  closeSync(descriptor);
  throw new ListenError(24);
};

describe("Listener", () => {
  test("a first accept that fails ends the start with its reason, and leaves nothing that listens", async () => {
    const port = freePort();
    const options = { address: LOOPBACK, port, backlog: 128, sharePort: false, inherited: null };
    const make = (accept: Accept) =>
      new Listener<undefined>({
        ...options,
        handlers: { data() {} },
        monotonicMs: () => performance.now(),
        onFailure: () => {},
        accept,
      });
    expect(() => make(outOfFiles)).toThrow("EMFILE");
    await expect(visit(port)).rejects.toThrow();
    // Nobody has the port: it can be had again.
    opened.push(make(byBun));
  });

  test("a later one is told each time, and accepting goes on when it can", async () => {
    let failures = 0;
    let visits = 0;
    let calls = 0;
    const mended = Promise.withResolvers<void>();
    const accept: Accept = (descriptor, handlers) => {
      calls++;
      // The second portion cannot begin, twice.
      if (calls === 2 || calls === 3) return outOfFiles(descriptor, handlers);
      if (calls === 4) mended.resolve();
      return byBun(descriptor, handlers);
    };
    const seen: boolean[] = [];
    const { listener, port } = aListener(
      accept,
      (code) => {
        expect(code).toBe("EMFILE");
        failures++;
        seen.push(listener.accepting);
      },
      () => visits++,
    );
    expect(listener.accepting).toBe(true);
    // More than a portion has, so that the next one has to begin.
    while (calls < 2) await visit(port);
    await mended.promise;
    await visit(port);
    expect(listener.accepting).toBe(true);
    expect([failures, seen, visits > 1]).toEqual([2, [false, false], true]);
  });

  test("nothing is accepted and nobody says so, as where Bun's accept(2) fails: told, and not accepting until it goes on", async () => {
    const stalled = Promise.withResolvers<string>();
    let begin = () => {};
    const accept: Accept = (descriptor, handlers) => {
      let accepting: ReturnType<Accept> | null = null;
      begin = () => {
        accepting = byBun(descriptor, handlers);
      };
      return {
        stop: () => (accepting === null ? closeSync(descriptor) : accepting.stop(false)),
      } as ReturnType<Accept>;
    };
    let visits = 0;
    const { listener, port } = aListener(
      accept,
      (code) => stalled.resolve(code),
      () => visits++,
      20,
    );
    // An empty queue is none that does not move.
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(listener.accepting).toBe(true);
    const visiting = visit(port);
    // This process may have another socket: the reason is not known.
    expect(await stalled.promise).toBe("unknown");
    expect([listener.accepting, visits]).toEqual([false, 0]);
    begin();
    await visiting;
    expect([listener.accepting, visits]).toEqual([true, 1]);
  });

  test("a request that waits is read between two portions, while more connections than one has are in the queue", async () => {
    const portion = 64;
    // No more than the kernel lets wait (listen(2)): 128 before linux 5.4.
    const waiting = Math.min(400, Number(readFileSync("/proc/sys/net/core/somaxconn", "utf8")) - 1);
    let accepted = 0;
    let acceptedBefore: number | undefined;
    const wasRead = Promise.withResolvers<void>();
    let listener: Listener<undefined> | undefined;
    const port = listenAnywhere((free) => {
      listener = new Listener<undefined>({
        address: LOOPBACK,
        port: free,
        backlog: 1_024,
        sharePort: false,
        inherited: null,
        handlers: {
          open() {
            accepted++;
          },
          data() {
            acceptedBefore ??= accepted;
            wasRead.resolve();
          },
        },
        // The time that everything else took lets a portion be longer: here it takes none.
        monotonicMs: () => 0,
        onFailure: () => {},
      });
    });
    if (listener !== undefined) opened.push(listener);
    const client = connect({ host: "127.0.0.1", port });
    await new Promise((resolve) => client.once("connect", resolve));
    while (accepted < 1) await new Promise(setImmediate);
    accepted = 0;
    // A process that makes them and ends, while this one does nothing: they stay in the queue.
    const script = `let n = 0; for (let i = 0; i < ${waiting}; i++)
      require("node:net").connect({ host: "127.0.0.1", port: ${port} }, () => { if (++n === ${waiting}) process.exit(0); });`;
    const { exitCode } = Bun.spawnSync([process.execPath, "-e", script]);
    client.write("x");
    await wasRead.promise;
    client.destroy();
    expect(exitCode).toBe(0);
    expect(acceptedBefore).toBeLessThanOrEqual(2 * portion);
    // They were there.
    while (accepted < waiting) await new Promise(setImmediate);
  }, 180_000);
});
