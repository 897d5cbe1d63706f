/**
 * `make bench-memory`: resident memory of the server at rest, after requests, and with sessions, beside the minimal server by Bun
 * (scripts/bench/hello.ts) and, where BEFORE=path/to/imdsproxy is given, another build. The proxy has the environment of its unit.
 * Anonymous memory is the process' own; that of files is the program, which the kernel has once for all processes that run it. Needs
 * root and wrk.
 *
 *   REQUESTS=1000000   how many in all     SESSIONS=8192   how many uids ask for credentials, 0 for none; the proxy keeps 8,192
 */
import { readFileSync } from "node:fs";
import { HEAP_GROWTH, NO_LATER_THREADS } from "../src/platform/engine-options.ts";
import type { RootStatus } from "../src/telemetry/status-document.ts";
import { bodiesOf, type Contestant, type Row, startHello, startProxy } from "./bench/contestants.ts";
import { measureRound } from "./bench/measure.ts";
import { OURS } from "./bench/report.ts";

const REQUESTS = Number(process.env["REQUESTS"] ?? 1_000_000);
const FIRST_REQUESTS = 10_000;
const SESSIONS = Number(process.env["SESSIONS"] ?? 8_192);
/** Seconds after which a process that does nothing has given back what it does not need. */
const REST_SECONDS = Number(process.env["REST_SECONDS"] ?? 10);
const ROW: Row = { load: "credentials", withToken: true, isNew: false };
const ROOT = { user: "root" } as const;
/** Uids from here on have no account. */
const FIRST_UID = 500_000;
const ANY_NUMBER = { perSecond: 600, burst: 100_000 };
const UNLIMITED_CALLS = {
  limits: {
    assumeRolePerUser: ANY_NUMBER,
    assumeRolePerNode: ANY_NUMBER,
    newConnectionsPerUser: null,
    trackedConnectionsPerUser: null,
  },
};

/** What the unit has the engine do otherwise than by default. */
const UNIT_ENVIRONMENT = { ...NO_LATER_THREADS, ...HEAP_GROWTH };

const rest = () => Bun.sleep(REST_SECONDS * 1000);

/** Resident memory in MB of 2^20 bytes (proc(5), /proc/PID/status). */
interface Memory {
  readonly all: number;
  readonly anonymous: number;
  readonly files: number;
}

function memoryOf(pid: number): Memory {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const mb = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) / 1024;
  return { all: mb("VmRSS"), anonymous: mb("RssAnon"), files: mb("RssFile") };
}

function print(name: string, when: string, { all, anonymous, files }: Memory): void {
  console.log(`| ${name} | ${when} | ${all.toFixed(1)} | ${anonymous.toFixed(1)} | ${files.toFixed(1)} |`);
}

/** Makes requests until there were this many in all. @returns how many there were. */
async function ask(contestant: Contestant, made: number, wanted: number): Promise<number> {
  let all = made;
  let perSecond = 1_000;
  while (all < wanted) {
    const seconds = Math.max(1, Math.min(60, Math.floor((wanted - all) / perSecond)));
    const round = await measureRound(contestant, ROW, seconds);
    all += round.requests;
    perSecond = round.perSecond;
  }
  return all;
}

/** Has one uid after the other ask for credentials, each of which gets a session. @returns how many sessions there are then. */
async function makeSessions({ node }: Contestant): Promise<number> {
  node.write("/run/crowd_of_uids.py", readFileSync("test/attack/programs/crowd_of_uids.py", "utf8"));
  let sessions = 0;
  for (let round = 0; sessions < SESSIONS && round < MAX_ROUNDS; round++) {
    const first = FIRST_UID + round * 100_000;
    const argv = ["/usr/bin/python3", "/run/crowd_of_uids.py", String(first), String(ROUND_SECONDS), "8"];
    const { exitCode, stderr } = await node.exec({ ...ROOT, argv, timeoutMs: 120_000 });
    if (exitCode !== 0) throw new Error(stderr);
    const { stdout } = await node.exec({ ...ROOT, argv: ["/run/bin/imdsproxy", "status", "--json"] });
    const status = JSON.parse(stdout) as RootStatus;
    sessions = status.sessions.rows.reduce((sum, row) => sum + row.sessions, 0);
  }
  return sessions;
}
const ROUND_SECONDS = 10;
const MAX_ROUNDS = 30;

const contestants: Contestant[] = [];
try {
  console.log("| server | when | VmRSS MB | anonymous | of files |\n| --- | --- | --- | --- | --- |");
  const ours = await startProxy(OURS, null, {}, UNIT_ENVIRONMENT);
  contestants.push(ours);
  const before = process.env["BEFORE"];
  if (before !== undefined) contestants.push(await startProxy("before", before, {}, UNIT_ENVIRONMENT));
  contestants.push(await startHello(await bodiesOf(ours)));
  await rest();
  for (const { name, pid } of contestants) print(name, "at rest", memoryOf(pid));
  for (const contestant of REQUESTS > 0 ? contestants : []) {
    let made = 0;
    for (const wanted of [FIRST_REQUESTS, REQUESTS]) {
      made = await ask(contestant, made, wanted);
      await rest();
      print(contestant.name, `after ${made.toLocaleString("en-US")} requests`, memoryOf(contestant.pid));
    }
  }
  if (SESSIONS > 0) {
    const fresh = await startProxy(OURS, null, UNLIMITED_CALLS, UNIT_ENVIRONMENT);
    contestants.push(fresh);
    await rest();
    print(OURS, "at rest, again", memoryOf(fresh.pid));
    const sessions = await makeSessions(fresh);
    await rest();
    print(OURS, `with ${sessions.toLocaleString("en-US")} sessions`, memoryOf(fresh.pid));
  }
} finally {
  for (const contestant of contestants) await contestant.stop();
}
process.exit(0);
