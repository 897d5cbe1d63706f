import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { askStatus } from "../../src/client/status-socket.ts";

let directory: string;
let stop: () => void;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-status-"));
  chmodSync(directory, 0o755);
  stop = () => {};
});
afterEach(() => {
  stop();
  rmSync(directory, { recursive: true });
});

const ask = (timeoutMs = 60_000) =>
  askStatus({ path: join(directory, "a.sock"), directory, mostBytes: 100 }, timeoutMs);

/** Listens at the socket, and does this with each connection. */
function listen(open: (socket: { write(text: string): unknown; end(): unknown }, count: number) => void) {
  let count = 0;
  const listener = Bun.listen({
    unix: join(directory, "a.sock"),
    socket: { open: (socket) => open(socket, ++count), data() {} },
  });
  stop = () => listener.stop(true);
}

describe("askStatus()", () => {
  test("reads to the end", async () => {
    listen((socket) => {
      socket.write("hello ");
      socket.write("you");
      socket.end();
    });
    expect(await ask()).toEqual({ kind: "answered", text: "hello you" });
  });
  test("says that the proxy is not running where nobody listens, or nothing is there", async () => {
    expect(await ask()).toEqual({ kind: "silent", why: "the proxy is not running" });
    rmSync(directory, { recursive: true });
    expect(await ask()).toMatchObject({
      kind: "silent",
      why: expect.stringMatching(/^the proxy is not running/),
    });
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-status-"));
  });
  test("asks again where it is closed without an answer", async () => {
    listen((socket, count) => {
      if (count > 1) socket.write("now");
      socket.end();
    });
    expect(await ask()).toEqual({ kind: "answered", text: "now" });
  });
  test("gives up one that does not answer", async () => {
    listen(() => {});
    expect(await ask(20)).toEqual({ kind: "silent", why: "the proxy has not answered within 0.02 s" });
  });
  test("takes no endless answer", async () => {
    listen((socket) => void socket.write("x".repeat(101)));
    expect(await ask()).toMatchObject({ kind: "silent", why: expect.stringContaining("longer than") });
  });
  test("refuses a directory in which others could put a socket", async () => {
    chmodSync(directory, 0o1777);
    await expect(ask()).rejects.toThrow("can be changed by others than the service (mode 1777)");
  });
});
