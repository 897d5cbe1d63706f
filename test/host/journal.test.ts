import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { fstatSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { JournalSocket, standardErrorIsJournal } from "../../src/platform/journal.ts";

/** Takes entries as journald does: says when it listens, reads one for each line of its input, and prints its length. */
const JOURNALD = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("listens", flush=True)
for line in sys.stdin:
    print(len(s.recv(1 << 20)), flush=True)
`;

/** A journald of the test's own, which reads when it is told to. */
async function aJournald(path: string) {
  const process = Bun.spawn(["python3", "-c", JOURNALD, path], { stdin: "pipe", stdout: "pipe" });
  const reader = process.stdout.getReader();
  let buffered = "";
  const line = async (): Promise<string> => {
    for (;;) {
      const end = buffered.indexOf("\n");
      if (end >= 0) {
        const found = buffered.slice(0, end);
        buffered = buffered.slice(end + 1);
        return found;
      }
      const { value, done } = await reader.read();
      if (done) throw new Error("journald ended");
      buffered += Buffer.from(value).toString();
    }
  };
  expect(await line()).toBe("listens");
  return {
    async readOne(): Promise<number> {
      process.stdin.write("\n");
      process.stdin.flush();
      return Number(await line());
    },
    async stop(): Promise<void> {
      process.kill();
      await process.exited;
    },
  };
}

describe("JournalSocket", () => {
  let directory: string;
  let path: string;
  const entry = Buffer.from("MESSAGE=hello\n");
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-journal-"));
    path = join(directory, "socket");
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  test("says whether an entry was taken: not where nobody listens, and again by a journald that was started anew", async () => {
    const journal = new JournalSocket(path);
    expect(journal.send(entry)).toBe(false);
    for (let start = 0; start < 2; start++) {
      const journald = await aJournald(path);
      expect(journal.send(entry)).toBe(true);
      expect(await journald.readOne()).toBe(entry.length);
      await journald.stop();
      expect(journal.send(entry)).toBe(false);
      rmSync(path);
    }
    journal.close();
    expect(() => new JournalSocket(`/${"x".repeat(107)}`)).toThrow("107 bytes");
  });

  test("does not wait for a journald that has stopped reading, and an entry that is too long is not sent in part", async () => {
    const journal = new JournalSocket(path);
    const journald = await aJournald(path);
    expect(journal.send(Buffer.alloc(16 * 1_024 * 1_024, 0x61))).toBe(false);
    let sent = 0;
    // The queue has net.unix.max_dgram_qlen places, and the sender's buffer an end.
    while (sent < 1_000_000 && journal.send(entry)) sent++;
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(1_000_000);
    expect(await journald.readOne()).toBe(entry.length);
    expect(journal.send(entry)).toBe(true);
    journal.close();
    await journald.stop();
  });
});

test("standard error is the journal's only where it is the stream that systemd named", () => {
  const { dev, ino } = fstatSync(2, { bigint: true });
  expect(standardErrorIsJournal(`${dev}:${ino}`)).toBe(true);
  for (const other of [undefined, "", "8:1234", `${dev}:${ino}0`])
    expect(standardErrorIsJournal(other)).toBe(false);
});
