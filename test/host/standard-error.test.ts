import { describe, expect, test } from "bun:test";

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
