import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const PLATFORM = resolve(import.meta.dir, "../../src/platform");
const BACKLOG = 1_024;
/** What the kernel gives of that (listen(2)). */
const MOST = Number(readFileSync("/proc/sys/net/core/somaxconn", "utf8"));

/**
 * The length of a listening socket's queue after Bun has taken over a descriptor of it. struct tcp_info (linux/tcp.h): of a socket that
 * listens, tcpi_sacked, the u32 at 28, is sk_max_ack_backlog (tcp_get_info in net/ipv4/tcp.c).
 */
const SCRIPT = `
import { ptr } from "bun:ffi";
import { keepBacklogs } from "${PLATFORM}/keep-backlogs.ts";
import { ListeningSocket } from "${PLATFORM}/listening-socket.ts";
import { libc } from "${PLATFORM}/socket-calls.ts";
const own = new ListeningSocket({
  address: Uint8Array.of(127, 0, 0, 1), port: 0, backlog: ${BACKLOG}, receiveBytes: 8192, sendBytes: 8192, sharePort: false, inherited: null,
});
if (process.argv.at(-1) === "kept") keepBacklogs();
Bun.listen({ fd: own.descriptor(), socket: { data() {} } });
const info = new DataView(new ArrayBuffer(104));
libc.getsockopt(own.handle, 6, 11, ptr(info.buffer), ptr(Uint32Array.of(104)));
console.log(info.getUint32(28, true));
process.exit(0);
`;

/** seccomp(2) is for good, so each has a process of its own. */
function queueLength(how: "kept" | "not kept"): number {
  const run = Bun.spawnSync([process.execPath, "-e", SCRIPT, how], { stderr: "inherit" });
  return Number(run.stdout.toString());
}

test("keepBacklogs() keeps the queue of a listening socket as long as it is when Bun takes it over, which shortens it otherwise", () => {
  expect(queueLength("kept")).toBe(Math.min(BACKLOG, MOST));
  expect(queueLength("not kept")).toBe(Math.min(511, MOST));
});
