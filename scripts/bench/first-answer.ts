/**
 * Starts a server again and again, and measures the time until it answers: `bun first-answer.ts JSON`, see {@link FirstAnswer}. Prints
 * an array of {@link Started} as JSON. It runs as root on a simulated node.
 */
import { readdirSync, readFileSync } from "node:fs";
import type { Subprocess } from "bun";

export interface FirstAnswer {
  readonly argv: readonly string[];
  /** At 127.0.0.1. */
  readonly port: number;
  readonly path: string;
  readonly runs: number;
}

/** One start, in milliseconds from just before exec to the first answer of status 200. */
export interface Started {
  readonly ms: number;
  /** Processor time of the process until then. */
  readonly cpuMs: number;
}

const REQUEST_END = " HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";
/** Where it has not answered by then, it will not. */
const LIMIT_MS = 60_000;

/** Whether an answer of status 200 comes; at once false where nobody listens yet. */
function isAnswered(port: number, path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: (socket) => void socket.write(`GET ${path}${REQUEST_END}`),
      data(socket, bytes) {
        resolve(bytes.toString("latin1").startsWith("HTTP/1.1 200"));
        socket.end();
      },
      close: () => resolve(false),
      error: () => resolve(false),
      connectError: () => resolve(false),
    },
  }).catch(() => resolve(false));
  return promise;
}

/** Processor time of all threads of a process, in milliseconds (proc(5), /proc/PID/task/TID/schedstat: nanoseconds first). */
export function processorMs(pid: number): number {
  let nanoseconds = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      const text = readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8");
      nanoseconds += Number(text.split(" ")[0]);
    } catch {
      // A thread that has just ended.
    }
  }
  return nanoseconds / 1e6;
}

async function measured(child: Subprocess, beganMs: number, { port, path }: FirstAnswer): Promise<Started> {
  while (!(await isAnswered(port, path))) {
    if (child.exitCode !== null) throw new Error(`it has ended with ${child.exitCode}`);
    if (performance.now() - beganMs > LIMIT_MS) throw new Error("no answer within a minute");
    await Bun.sleep(1);
  }
  return { ms: performance.now() - beganMs, cpuMs: processorMs(child.pid) };
}

if (import.meta.main) {
  const what = JSON.parse(process.argv[2] ?? "{}") as FirstAnswer;
  const started: Started[] = [];
  for (let run = 0; run < what.runs; run++) {
    const beganMs = performance.now();
    const child = Bun.spawn([...what.argv], { stdout: "ignore", stderr: "ignore", stdin: "ignore" });
    try {
      started.push(await measured(child, beganMs, what));
    } finally {
      child.kill("SIGKILL");
      await child.exited;
    }
  }
  console.log(JSON.stringify(started));
}
