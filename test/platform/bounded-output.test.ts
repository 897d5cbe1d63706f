import { describe, expect, test } from "bun:test";
import { BoundedOutput } from "../../src/platform/bounded-output.ts";

/** A reader who takes so many bytes and then none, until more is allowed. */
function aReader(room: number) {
  const reader = { room, text: "" };
  const write = (bytes: Uint8Array): number => {
    if (reader.room < 0) return -1;
    const taken = Math.min(bytes.length, reader.room);
    reader.text += Buffer.from(bytes.subarray(0, taken)).toString();
    reader.room -= taken;
    return taken;
  };
  return { reader, write };
}

const open = (write: (bytes: Uint8Array) => number, mostBytes = 100) =>
  new BoundedOutput({ write, lostLine: (lines) => `lost ${lines}\n`, mostBytes });

describe("BoundedOutput", () => {
  test("writes at once what can be written", () => {
    const { reader, write } = aReader(1_000);
    const output = open(write);
    output.write("one\n");
    output.write("two\n");
    expect([reader.text, output.waitingBytes]).toEqual(["one\ntwo\n", 0]);
  });

  test("keeps a bounded number of bytes of a million lines, and says how many are lost when it can", () => {
    const { reader, write } = aReader(0);
    const output = open(write);
    for (let i = 0; i < 1_000_000; i++) output.write("0123456789abcdef\n");
    expect(output.waitingBytes).toBeLessThanOrEqual(100);
    reader.room = 10_000;
    output.flush();
    expect(reader.text).toBe(`${"0123456789abcdef\n".repeat(5)}lost 999995\n`);
    output.write("after\n");
    expect(reader.text).toEndWith("lost 999995\nafter\n");
    expect(output.waitingBytes).toBe(0);
  });

  test("lines stay whole where a part of one was written", () => {
    const { reader, write } = aReader(6);
    const output = open(write);
    for (const line of ["first\n", "second\n", "third\n"]) output.write(line);
    reader.room = 3;
    output.flush();
    reader.room = 100;
    output.write("fourth\n");
    expect(reader.text).toBe("first\nsecond\nthird\nfourth\n");
  });

  test("keeps nothing for one who has gone", () => {
    const { write } = aReader(-1);
    const output = open(write);
    for (let i = 0; i < 1_000; i++) output.write("line\n");
    expect(output.waitingBytes).toBe(0);
  });

  test("tries again by itself", async () => {
    const { reader, write } = aReader(0);
    const output = open(write);
    output.write("late\n");
    reader.room = 100;
    while (output.waitingBytes > 0) await Bun.sleep(10);
    expect(reader.text).toBe("late\n");
  });
});

describe("standardError()", () => {
  /** A process that writes 100 MB of lines, and says by its standard output how much memory it has then. */
  const PROGRAM = `
    import { standardError } from "./src/platform/bounded-output.ts";
    const output = standardError((lines) => "lost " + lines + "\\n");
    const line = "x".repeat(999) + "\\n";
    const rss = () => Math.round(process.memoryUsage.rss() / 1_048_576);
    for (let i = 0; i < 1_000; i++) output.write(line);
    const before = rss();
    for (let i = 0; i < 100_000; i++) output.write(line);
    console.log(JSON.stringify({ grownMiB: rss() - before, waiting: output.waitingBytes }));
    console.log("read");
    while (output.waitingBytes > 0) await Bun.sleep(10);
  `;
  /** Runs it with a standard error that nobody reads until it has said so; prints what it said, and the end of what was read. */
  const RUN = `
import json, os, socket, subprocess, sys, threading
kind, argv = sys.argv[1], sys.argv[2:]
if kind == "socket":
    reader, writer = (end.detach() for end in socket.socketpair())
else:
    reader, writer = os.pipe()
child = subprocess.Popen(argv, stderr=writer, stdout=subprocess.PIPE, text=True)
os.close(writer)
said = child.stdout.readline()
child.stdout.readline()
read = b""
while True:
    more = os.read(reader, 65536)
    if not more:
        break
    read = (read + more)[-2000:]
child.wait()
print(json.dumps({**json.loads(said), "end": read.decode().splitlines()[-1]}))
`;
  for (const kind of ["pipe", "socket"]) {
    test(`a ${kind} that nobody reads costs no memory and no wait, and is told of what it has missed`, async () => {
      const argv = ["/usr/bin/python3", "-c", RUN, kind, process.execPath, "-e", PROGRAM];
      const child = Bun.spawn(argv, { stdout: "pipe", stderr: "inherit" });
      const said = JSON.parse(await new Response(child.stdout).text());
      expect(said.grownMiB).toBeLessThan(40);
      expect(said.waiting).toBeLessThanOrEqual(262_144);
      expect(said.end).toMatch(/^lost 100\d{3}$/);
    });
  }
});
