/**
 * `make soak`: an hour on a simulated node in which everything that can fail fails, in an order that a seed decides: STS and the
 * metadata service, the firewall (others flush it, the watch puts it back), the configuration (reloads), the proxy (restarts, kills,
 * upgrades to another version and back). Meanwhile users, jobs and root ask without rest, and each of their tries is held against the invariants (soak/invariants.ts).
 *
 *   MINUTES=60 SEED=random USERS=8   how long, in which order, and how many users; WRITE=1 writes docs/scale.md and docs/soak.svg
 *   OTHER=FILE                       the executable to upgrade to and back from; without it, these sources under another version
 *
 * Needs root and the built executable. Exits with 1 where an invariant did not hold, or where descriptors, memory or latency grew.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join, resolve } from "node:path";
import { executableOf } from "../test/boot/support/node.ts";
import { Generator } from "../test/simulation/generator.ts";
import { EXECUTABLE, mustExec, startTestNode, TEST_ROLE } from "../test/support/node.ts";
import { applyRules, eventually, testConfig } from "../test/support/proxied.ts";
import type { StsFault } from "../test/support/stand-ins/sts.ts";
import { median, withTable } from "./bench/report.ts";
import { type Disturbed, Invariants, type Try, type Window } from "./soak/invariants.ts";
import { type Curve, soakPlot } from "./soak/plot.ts";
import { Replaceable } from "./soak/upgrade.ts";

const ROOT = { user: "root" } as const;
const MINUTES = Number(process.env["MINUTES"] ?? 60);
const SEED = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const SAMPLE_S = 5;
const OTHER_ROLE = TEST_ROLE.replace(/[^/]+$/, "OtherRole");
const ROLES = [TEST_ROLE, OTHER_ROLE].map((arn) => arn.replace(/^.*\//, ""));
/** In place of an hour, so that sessions are refreshed and end while it runs. */
const SESSION_SECONDS = 300;
/** In the last part of the time nothing begins anew, so that growth can be seen. */
const RESTARTS_UNTIL = 0.6;
const MOST_GROWTH = 1.25;
/** Of the median latency: far from what a neighbour on the machine does, and from what a list does that grows with each request. */
const MOST_SLOWDOWN = 3;
const MOST_DESCRIPTORS = 16;

const users = Array.from({ length: Number(process.env["USERS"] ?? 8) }, (_, at) => ({
  ...{ name: `user${at}`, uid: 3000 + at },
}));
const random = new Generator(SEED);
console.log(`soak: ${MINUTES} min, SEED=${SEED}`);

const OTHER = process.env["OTHER"] ?? executableOf("9.9.9");
const versionOf = (executable: string) =>
  Bun.spawnSync([executable, "--version"]).stdout.toString().trim().replace("imdsproxy ", "");

const node = await startTestNode({
  users: [...users, { name: "jobs", uid: 2900 }],
  show: { "/run/soak": resolve(import.meta.dir, "soak"), "/run/other/imdsproxy": resolve(OTHER) },
  stsMode: { sessionSeconds: SESSION_SECONDS },
});
const proxy = new Replaceable(node, ["/run/bin/imdsproxy", "/run/other/imdsproxy"]);
const shell = (line: string) => mustExec(node, ROOT, ["sh", "-c", line]);
const clientOf = (user: string, pauseSeconds: number) =>
  node.spawn({
    ...{ user, timeoutMs: 0, argv: ["/usr/bin/python3", "/run/soak/client.py", String(pauseSeconds)] },
    env: { MARKER: node.secrets.marker, ROLE: node.roleName },
  });

const disturbed = {
  connections: [] as Window[],
  upstream: [] as Window[],
  sessions: [] as Window[],
} satisfies Disturbed;
async function during(windows: readonly Window[][], run: () => Promise<unknown>): Promise<void> {
  const now: Window = { fromMs: Date.now(), toMs: null };
  for (const list of windows) list.push(now);
  await run();
  now.toMs = Date.now();
}
const pause = (least: number, most: number) =>
  Bun.sleep(1_000 * (least + (most - least) * random.fraction()));

const STS_FAULTS: Readonly<Record<string, StsFault>> = {
  throttles: { kind: "error", status: 400, code: "Throttling", message: "Rate exceeded" },
  "has a fault": { kind: "error", status: 500, code: "InternalFailure" },
  refuses: { kind: "error", status: 403, code: "AccessDenied" },
  "answers rubbish": { kind: "body", status: 200, body: "<html>Login</html>" },
  resets: { kind: "drop" },
  hangs: { kind: "hang" },
};
const FLUSHES = ["iptables -F", "iptables -t nat -F", "nft flush ruleset"];
let configuration = 0;
const begun: number[] = [];
const counts: Record<string, number> = {};

const EVENTS: Readonly<Record<string, () => Promise<unknown>>> = {
  async sts() {
    const kind = random.pick(Object.keys(STS_FAULTS));
    counts[`STS ${kind}`] = (counts[`STS ${kind}`] ?? 0) + 1;
    await node.sts.set({ fault: STS_FAULTS[kind] ?? { kind: "none" } });
    await pause(3, 25);
    await node.sts.set({ fault: { kind: "none" } });
  },
  async "STS is slow"() {
    await node.sts.set({ delayMs: 500 + random.below(4_000) });
    await pause(3, 15);
    await node.sts.set({ delayMs: 0 });
  },
  "the metadata service fails": () =>
    during([disturbed.upstream], async () => {
      await node.agent?.set({ fault: random.pick(["refuse", "hang", "drop", "error"] as const) });
      await pause(2, 15);
      await node.agent?.set({ fault: "none" });
    }),
  "a flush": () => during([disturbed.connections], () => shell(`${random.pick(FLUSHES)}; true`)),
  "a reload": () =>
    during([disturbed.sessions], async () => {
      configuration = 1 - configuration;
      const role = configuration === 0 ? TEST_ROLE : OTHER_ROLE;
      node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node, { role })));
      process.kill(proxy.running.pid, "SIGHUP");
      await allAreServed();
    }),
  "a bad configuration": async () => {
    const good = await shell("cat /etc/imdsproxy/config.yaml");
    node.write("/etc/imdsproxy/config.yaml", "role: nonsense\n");
    process.kill(proxy.running.pid, "SIGHUP");
    await pause(1, 3);
    node.write("/etc/imdsproxy/config.yaml", good);
    process.kill(proxy.running.pid, "SIGHUP");
  },
  "a job": () =>
    mustExec(node, { user: "jobs" }, [
      "sh",
      "-c",
      "for i in $(seq 30); do curl -s -o /dev/null -m 10 http://169.254.169.254/latest/meta-data/placement/region & done; wait; true",
    ]),
};
/** No connection may be refused or cut in an upgrade; the sessions are made anew in it as in a restart. */
const BEGIN_ANEW: Readonly<Record<string, () => Promise<unknown>>> = {
  "a restart": () => anew([disturbed.connections, disturbed.sessions], () => proxy.restart("SIGTERM")),
  "a kill": () => anew([disturbed.connections, disturbed.sessions], () => proxy.restart("SIGKILL")),
  "an upgrade or its way back": () => anew([disturbed.sessions], () => proxy.replace()),
};
const anew = (windows: readonly Window[][], begin: () => Promise<void>) =>
  during(windows, async () => {
    await begin();
    await allAreServed();
  });

/** The role that each user has been given last, and when they asked. */
const last = new Map<string, { readonly role: string; readonly at: number }>();
let look = () => {};
/** Nothing fails now: so everybody gets the role of the configuration, of whoever began anew. */
async function allAreServed(): Promise<void> {
  const sinceMs = Date.now();
  await eventually(
    "all users are served",
    async () => {
      // Each look goes through all that the clients have printed.
      await Bun.sleep(400);
      look();
      return users.every(({ name }) => {
        const one = last.get(name);
        return one !== undefined && one.at >= sinceMs && one.role === ROLES[configuration];
      });
    },
    120_000,
  );
}

/** Descriptors and resident memory of the proxy; null where it is away. */
function usage(): { descriptors: number; rssMiB: number } | null {
  try {
    const status = readFileSync(`/proc/${proxy.running.pid}/status`, "utf8");
    // A process that has ended and was not waited for yet has a status without memory (proc(5)).
    const kib = /^VmRSS:\s+(\d+)/m.exec(status)?.[1];
    if (kib === undefined) return null;
    return {
      descriptors: readdirSync(`/proc/${proxy.running.pid}/fd`).length,
      rssMiB: Number(kib) / 1024,
    };
  } catch {
    return null;
  }
}

const violations: string[] = [];
interface Sample {
  /** Minutes from the beginning. */
  readonly minute: number;
  readonly descriptors: number | null;
  readonly rssMiB: number | null;
  readonly medianMs: number | null;
}
const samples: Sample[] = [];
/** What happened, for whoever reads of a violation. */
const recent: string[] = [];
let tries = 0;
let given = 0;
try {
  node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node)));
  await applyRules(node);
  await proxy.start();
  const watch = node.spawn({ ...ROOT, argv: ["imdsproxy", "iptables", "watch"], timeoutMs: 0 });
  await eventually("the watch has looked", async () =>
    (await shell("cat /run/imdsproxy/rules.json 2>/dev/null || :")).includes('"tables"'),
  );
  const clients = [
    ...users.map(({ name }) => ({ user: name, running: clientOf(name, 0.5), read: 0 })),
    { user: "root", running: clientOf("root", 1), read: 0 },
  ];
  const invariants = new Invariants();
  const endMs = Date.now() + MINUTES * 60_000;
  const restartsEndMs = Date.now() + MINUTES * 60_000 * RESTARTS_UNTIL;
  const latencies: number[] = [];

  /** What the clients have printed since the last look. */
  look = () => {
    for (const client of clients) {
      const text = client.running.stdout();
      const end = text.lastIndexOf("\n") + 1;
      const lines = text.slice(client.read, end).split("\n").filter(Boolean);
      client.read = end;
      for (const line of lines) {
        const one = JSON.parse(line) as Try;
        tries++;
        if (one.status === 200 && one.code === "Success" && client.user !== "root") {
          given++;
          latencies.push(one.ms ?? 0);
          last.set(client.user, { role: one.role ?? "", at: one.at });
        }
        const broken = invariants.check(client.user, one, ROLES, disturbed);
        if (broken === null) continue;
        violations.push(`${new Date(one.at).toISOString()}: ${broken}`);
        console.error(`soak: ${violations.at(-1)}; ${recent.slice(-4).join(", ")}`);
      }
    }
  };
  const beganMs = performance.now();
  const sinceBegun = () => (performance.now() - beganMs) / 60_000;
  const measuring = setInterval(() => {
    const now = usage();
    samples.push({
      minute: sinceBegun(),
      descriptors: now?.descriptors ?? null,
      rssMiB: now?.rssMiB ?? null,
      medianMs: latencies.length === 0 ? null : median(latencies.splice(0)),
    });
  }, SAMPLE_S * 1_000);

  while (Date.now() < endMs) {
    await pause(0.5, 6);
    const mayBegin = Date.now() < restartsEndMs;
    const names = [
      ...Object.keys(EVENTS),
      ...Object.keys(EVENTS),
      ...(mayBegin ? Object.keys(BEGIN_ANEW) : []),
    ];
    const name = random.pick(names);
    recent.push(`${new Date().toISOString().slice(11, 19)} ${name}`);
    if (name !== "sts") counts[name] = (counts[name] ?? 0) + 1;
    await (EVENTS[name] ?? BEGIN_ANEW[name])?.();
    if (name in BEGIN_ANEW) begun.push(sinceBegun());
    look();
    // Whatever it was, it is over by itself.
    if (random.chance(0.1)) {
      const before = given;
      await eventually("users are served again", () => {
        look();
        return given > before + users.length;
      });
    }
  }
  await eventually("the last tries are there", () => {
    look();
    return latencies.length > 0;
  });
  clearInterval(measuring);
  for (const { running } of clients) running.kill("SIGKILL");
  watch.kill("SIGTERM");
  await applyRules(node);
} finally {
  await node.stop();
}

const known = samples.filter(({ rssMiB }) => rssMiB !== null);
const calm = known.slice(Math.ceil(known.length * RESTARTS_UNTIL));
const half = Math.floor(calm.length / 2);
const middle = (part: typeof calm, of: keyof Sample) =>
  median(part.flatMap((one) => (one[of] === null ? [] : [one[of]])));
const ratio = (of: keyof Sample) => middle(calm.slice(half), of) / middle(calm.slice(0, half), of);
const growth = ratio("rssMiB");
const slowdown = ratio("medianMs");
const descriptors = middle(calm.slice(half), "descriptors") - middle(calm.slice(0, half), "descriptors");
if (!(growth <= MOST_GROWTH)) violations.push(`memory grew to ${growth.toFixed(2)} of what it was`);
if (!(descriptors <= MOST_DESCRIPTORS)) violations.push(`there are ${descriptors} descriptors more`);
// In a run of a minute there may have been none to measure.
if (slowdown > MOST_SLOWDOWN) violations.push(`an answer takes ${slowdown.toFixed(2)} times what it took`);

const load = readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ");
const happened = Object.entries(counts)
  .sort(([a], [b]) => (a < b ? -1 : 1))
  .map(([what, times]) => `${what} ${times}`)
  .join(", ");
const text = `${new Date().toISOString().slice(0, 10)}, MINUTES=${MINUTES} SEED=${SEED} USERS=${users.length}, ${cpus().length} x ${cpus()[0]?.model ?? "unknown"}, Linux ${release()}, load ${load} at the end: ${tries.toLocaleString("en-US")} tries, ${given.toLocaleString("en-US")} of them with a user's credentials; ${violations.length} broke an invariant. Without a restart, the second half of the last ${Math.round((1 - RESTARTS_UNTIL) * 100)} % had ${growth.toFixed(2)} of the first half's memory, ${slowdown.toFixed(2)} of its median latency, and ${descriptors} descriptors more. Versions: ${versionOf(EXECUTABLE)} and ${versionOf(OTHER)}. What happened: ${happened}.
`;
console.log(text);
for (const one of violations) console.error(`soak: ${one}`);
if (process.env["WRITE"] === "1") {
  const page = join("docs", "scale.md");
  writeFileSync(page, withTable(readFileSync(page, "utf8"), text, "make soak"));
  const curves: Curve[] = [
    { title: "resident memory of the proxy, MiB", values: samples.map((one) => one.rssMiB) },
    { title: "descriptors of the proxy", values: samples.map((one) => one.descriptors) },
    { title: "median of an answer with credentials, ms", values: samples.map((one) => one.medianMs) },
  ];
  writeFileSync(
    join("docs", "soak.svg"),
    soakPlot(
      curves,
      samples.map(({ minute }) => minute),
      begun,
    ),
  );
}
process.exit(violations.length > 0 ? 1 : 0);
