import { readFileSync } from "node:fs";
import { TOKEN_HEADER, TTL_HEADER } from "../../test/support/proxied.ts";
import { ALICE, type Contestant, LOADS, type Row } from "./contestants.ts";
import { processorMs } from "./first-answer.ts";
import type { Latencies, OpenLoop } from "./open-loop.ts";

/** What one round of closed-loop requests took. */
export interface Round {
  readonly requests: number;
  readonly perSecond: number;
  /** Seconds of the server's CPU time for 10,000 requests, in its own code and in the kernel. */
  readonly userSeconds: number;
  readonly systemSeconds: number;
}

export const CONNECTIONS = 64;
const HERTZ = 100;

/**
 * CPU time of all threads of a process so far, in seconds: `all` to the nanosecond, of the threads that there are (proc(5),
 * /proc/PID/task/TID/schedstat), and what of it was its own code's and the kernel's in ticks of USER_HZ (/proc/PID/stat: utime and stime).
 */
function processorTime(pid: number): { all: number; user: number; system: number } {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return {
    all: processorMs(pid) / 1_000,
    user: Number(fields[11]) / HERTZ,
    system: Number(fields[12]) / HERTZ,
  };
}

function headersOf({ load, isNew, withToken }: Row, token: string): string[] {
  return [
    ...(load === "tokens" ? [`${TTL_HEADER}: 21600`] : withToken ? [`${TOKEN_HEADER}: ${token}`] : []),
    ...(isNew ? ["Connection: close"] : []),
  ];
}

/** wrk with as many requests at a time as it has connections. */
export async function measureRound(contestant: Contestant, row: Row, seconds: number): Promise<Round> {
  const { node, pid, token } = contestant;
  node.write("/run/wrk.lua", row.load === "tokens" ? 'wrk.method = "PUT"\n' : "");
  const argv = [
    ...["wrk", "-t1", `-c${CONNECTIONS}`, `-d${seconds}s`, "-s", "/run/wrk.lua"],
    ...headersOf(row, token).flatMap((header) => ["-H", header]),
    `http://169.254.169.254${LOADS[row.load]}`,
  ];
  const before = processorTime(pid);
  const { stdout, stderr } = await node.exec({ ...ALICE, argv, timeoutMs: (seconds + 20) * 1000 });
  const after = processorTime(pid);
  const requests = Number(/(\d+) requests in/.exec(stdout)?.[1]);
  const perSecond = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
  if (!(perSecond > 0)) throw new Error(`wrk printed no rate: ${stdout}${stderr}`);
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(stdout)?.[1];
  if (bad !== undefined) throw new Error(`${bad} answers of ${contestant.name} were no success: ${argv}`);
  const each = ((after.all - before.all) / requests) * 10_000;
  const [user, system] = [after.user - before.user, after.system - before.system];
  const ownShare = user + system === 0 ? 0.5 : user / (user + system);
  return {
    requests,
    perSecond,
    userSeconds: each * ownShare,
    systemSeconds: each * (1 - ownShare),
  };
}

/** An open loop at a fixed rate. */
export async function measureLatencies(
  contestant: Contestant,
  row: Row,
  rate: number,
  seconds: number,
): Promise<Latencies> {
  const { node, token } = contestant;
  const lines = [
    `${row.load === "tokens" ? "PUT" : "GET"} ${LOADS[row.load]} HTTP/1.1`,
    "Host: 169.254.169.254",
    ...headersOf(row, token),
  ];
  const loop: OpenLoop = {
    host: "169.254.169.254",
    port: 80,
    request: `${lines.join("\r\n")}\r\n\r\n`,
    isNew: row.isNew,
    rate,
    seconds,
  };
  const argv = ["/run/bin/bun", "/run/imdsproxy-bench/scripts/bench/open-loop.ts", JSON.stringify(loop)];
  const { stdout, stderr } = await node.exec({ ...ALICE, argv, timeoutMs: (seconds + 20) * 1000 });
  if (!stdout.startsWith("{")) throw new Error(`the open loop printed no figures: ${stdout}${stderr}`);
  return JSON.parse(stdout) as Latencies;
}
