import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { signal } from "../../../src/demo/run.ts";
import { mustExec } from "../../support/node.ts";
import type { SimulatedNode, Who } from "../../support/simulated-node.ts";

/** The attackers' programs, as the node shows them. */
export const SHOW_PROGRAMS = { "/run/attack": resolve(import.meta.dir, "../programs") };

/** The shell lines that flush the firewall and leave an agent's entry, HyperPod's where none is named: the worst case. */
export const flushBut = (agent = "169.254.0.2:9081"): string =>
  `for i in iptables ip6tables; do $i -F; $i -t nat -F; done\niptables -t nat -A OUTPUT -d 169.254.169.254/32 -p tcp --dport 80 -j DNAT --to-destination ${agent}`;

/** Debian's Python, which a node has; the attacks are written in it. */
const PYTHON = "/usr/bin/python3";

/** Runs an attack program; returns what it printed, which is one line of JSON. */
export async function attack<Result>(
  node: SimulatedNode,
  who: Who,
  program: string,
  args: readonly (string | number)[] = [],
  timeoutMs = 150_000,
  env: Readonly<Record<string, string>> = {},
): Promise<Result> {
  const argv = [PYTHON, `/run/attack/${program}.py`, ...args.map(String)];
  return JSON.parse(await mustExec(node, who, argv, { timeoutMs, env })) as Result;
}

/** What programs/flood.py says. */
export interface Flood {
  readonly connections: number;
  readonly refused: number;
  readonly bytes: number;
  readonly requests: number;
  readonly answers: number;
}

/** For how long a flood may go on after its time where it has not done `least` by then, as flood.py has it, with time to begin and to end. */
const FLOOD_MORE_MS = 100_000;

/** programs/flood.py for `seconds`, and for longer where a slow machine has not come to `least` by then. */
export const flood = (
  node: SimulatedNode,
  who: Who,
  kind: string,
  seconds: number,
  processes: number,
  more: readonly (string | number)[] = [],
  least: Partial<Flood> = {},
): Promise<Flood> =>
  attack<Flood>(node, who, "flood", [kind, seconds, processes, ...more], seconds * 1000 + FLOOD_MORE_MS, {
    FLOOD_LEAST: JSON.stringify(least),
  });

/** What programs/victim.py says. */
export interface VictimReport {
  readonly rounds: number;
  readonly requests: number;
  readonly maxMs: number;
  readonly p99Ms: number;
  /** SYNs that were sent again, because the kernel had dropped them. */
  readonly resent: number;
  readonly failures: Readonly<Record<string, number>>;
  /** How often each role's name was given. */
  readonly roles: Readonly<Record<string, number>>;
  /** How often the credentials of each role and session name were given: `SESSION/ROLE/NAME`. */
  readonly sessions: Readonly<Record<string, number>>;
}

/** An honest client's loop of `seconds`, and for up to 30 s more where it has not had `leastRounds` by then. */
export const victim = (
  node: SimulatedNode,
  who: Who,
  seconds: number,
  pauseMs: number,
  to: { host: string; port: number } = { host: "169.254.169.254", port: 80 },
  leastRounds = 0,
): Promise<VictimReport> =>
  attack<VictimReport>(
    node,
    who,
    "victim",
    [seconds, pauseMs, to.host, to.port, leastRounds],
    (seconds + 60) * 1000,
  );

/** Memory of a process that is in the machine's, in KiB (proc(5), VmRSS). */
export function residentKiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

/** Processor time of a process so far, in hundredths of a second (proc(5), utime and stime). */
export function processorTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

/**
 * Nanoseconds for which the first thread of a process has run, and for which it could have run and had no processor
 * (Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat); zeros where the kernel does not count them.
 */
export function scheduled(pid: number): { readonly ranNs: number; readonly waitedNs: number } {
  const path = `/proc/${pid}/schedstat`;
  const [ran = "0", waited = "0"] = existsSync(path) ? readFileSync(path, "utf8").split(" ") : [];
  return { ranNs: Number(ran), waitedNs: Number(waited) };
}

/**
 * The part of the time that a process could have run in which it did, since `before`: 1 where it had a processor whenever it wanted
 * one. In a test the proxy has not the CPUWeight of its unit, and shares the processors with whatever runs beside it.
 */
export function shareSince(pid: number, before: ReturnType<typeof scheduled>): number {
  const now = scheduled(pid);
  const ranNs = now.ranNs - before.ranNs;
  const wantedNs = ranNs + now.waitedNs - before.waitedNs;
  return wantedNs > 0 ? ranNs / wantedNs : 1;
}

/**
 * Holds the proxy still while something happens, so that it comes to connections late: what a race does by chance, this
 * does each time. nsenter, its parent, stops with it, and has to be woken as well.
 */
export async function whileStopped<Result>(proxyPid: number, act: () => Promise<Result>): Promise<Result> {
  const parent = Number(readFileSync(`/proc/${proxyPid}/stat`, "utf8").split(") ")[1]?.split(" ")[1]);
  process.kill(proxyPid, "SIGSTOP");
  try {
    return await act();
  } finally {
    signal(proxyPid, "SIGCONT");
    signal(parent, "SIGCONT");
  }
}
