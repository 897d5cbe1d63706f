import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { lstatSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeWithoutWaiting } from "../../src/platform/libc.ts";
import {
  closeDescriptor,
  endSending,
  hungUp,
  isListenedAt,
  peerUid,
  UnixListener,
} from "../../src/platform/unix-socket.ts";

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-unix-"));
  path = join(directory, "a.sock");
});
afterEach(() => rmSync(directory, { recursive: true }));

const listen = (mode = 0o666) => new UnixListener({ path, mode, backlog: 4 });

/** Connects; resolves to the whole answer once the other side has ended. */
function client() {
  const answer = Promise.withResolvers<string>();
  const parts: Buffer[] = [];
  const end = () => answer.resolve(Buffer.concat(parts).toString());
  const connection = Bun.connect({
    unix: path,
    socket: { data: (_, part) => void parts.push(Buffer.from(part)), end, close: end, error: end },
  });
  return { connection, answer: answer.promise };
}

describe("UnixListener", () => {
  test("knows who connects, and is known to who has connected", async () => {
    const listener = listen();
    try {
      const { connection, answer } = client();
      const opened = await connection;
      const accepted = listener.accept();
      if (accepted === null) throw new Error("nobody has connected");
      expect(accepted.uid).toBe(lstatSync(directory).uid);
      expect(peerUid((opened as unknown as { fd: number }).fd)).toBe(lstatSync(directory).uid);
      expect(writeWithoutWaiting(accepted.descriptor, Buffer.from("hello"))).toBe(5);
      endSending(accepted.descriptor);
      expect(await answer).toBe("hello");
      closeDescriptor(accepted.descriptor);
    } finally {
      listener.close();
    }
  });

  test("whether somebody listens at a path: until they stop, also where their queue is full", async () => {
    expect(isListenedAt(path)).toBe(false);
    const listener = listen();
    for (let i = 0; i < 20; i++) expect(isListenedAt(path)).toBe(true);
    listener.close();
    expect(isListenedAt(path)).toBe(false);
    writeFileSync(path, "");
    expect(isListenedAt(path)).toBe(false);
    rmSync(path);
    expect(isListenedAt("x".repeat(200))).toBe(false);
  });

  test("accepts nobody where nobody waits, without waiting itself", () => {
    const listener = listen();
    expect(listener.accept()).toBeNull();
    listener.close();
  });

  test("has the mode that it is given, whatever the umask is, and sets the umask back", () => {
    const before = process.umask(0o077);
    try {
      const listener = listen(0o666);
      expect(lstatSync(path).mode & 0o777).toBe(0o666);
      listener.close();
      const closed = listen(0o600);
      expect(lstatSync(path).mode & 0o777).toBe(0o600);
      closed.close();
      expect(process.umask()).toBe(0o077);
    } finally {
      process.umask(before);
    }
  });

  test("takes the place of what is there: a socket that was left, a file, a link that it does not follow", () => {
    const target = join(directory, "target");
    writeFileSync(target, "kept");
    const leftovers: (() => void)[] = [
      () => writeFileSync(path, "a file"),
      () => symlinkSync(target, path),
      () => symlinkSync(target, `${path}.new`),
    ];
    for (const leave of leftovers) {
      leave();
      const listener = listen();
      expect(lstatSync(path).isSocket()).toBe(true);
      listener.close();
    }
    expect(lstatSync(target).isFile()).toBe(true);
    expect(readdirSync(directory)).toEqual(["target"]);
  });

  test("leaves the socket of its successor", () => {
    const first = listen();
    const second = listen();
    first.close();
    expect(lstatSync(path).isSocket()).toBe(true);
    second.close();
    expect(readdirSync(directory)).toEqual([]);
  });

  test("is an error where the directory is not there", () => {
    path = join(directory, "nowhere", "a.sock");
    expect(() => listen()).toThrow();
  });
});

describe("hungUp()", () => {
  test("names those whose other end is closed", async () => {
    const listener = listen();
    const stays = client();
    const goes = client();
    await stays.connection;
    const first = listener.accept()?.descriptor ?? -1;
    (await goes.connection).terminate();
    const second = listener.accept()?.descriptor ?? -1;
    let gone = hungUp([first, second]);
    while (gone.size === 0) {
      await Bun.sleep(1);
      gone = hungUp([first, second]);
    }
    expect([...gone]).toEqual([second]);
    for (const one of [first, second]) closeDescriptor(one);
    (await stays.connection).terminate();
    listener.close();
  });
  test("of none is none", () => expect(hungUp([]).size).toBe(0));
});

test("peerUid() of what is no Unix socket is null", () => expect(peerUid(0)).toBeNull());
