import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import type { Running } from "../../src/demo/run.ts";
import { cgroupMount } from "../../src/identity/cgroup-tree.ts";
import { observeChains } from "../../src/observe/rules.ts";
import { BRIDGE } from "../support/bridge.ts";
import { curl, IMDS4, IMDS6, mustExec, startTestNode } from "../support/node.ts";
import { applyRules, eventually, TOKEN_HEADER, TTL_HEADER, testConfig, tokenOf } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";

/** `imdsproxy observe` on a node: what it says against what a script did. */

const ROOT: Who = { user: "root" };
const AGENT = "http://169.254.0.2:9081";
const FILE = "/run/seen/observed.json";
const CREDENTIALS = "meta-data/iam/security-credentials";
/** Names of this run's own, in the machine's tree of cgroups. */
const UNIT = `imdsproxy-test-${process.pid}.service`;
const JOB = 910_000_000 + (process.pid % 1_000_000);

interface SeenCaller {
  readonly uid: number | null;
  readonly container: string | null;
  readonly place: { kind: string; name?: string };
  readonly program: string;
  readonly arguments: string[] | null;
  readonly parents: string[];
  readonly jobs: string[];
  readonly connections: number;
  readonly requests: number;
  readonly v1: number;
  readonly v2: number;
  readonly categories: [string, number][];
  readonly userAgents: [string, number][];
  readonly account: { user: string | null; groups: string[] } | null;
  readonly wouldGet: { kind: string; role?: string; rule?: string | null } | null;
  readonly wouldBe404: string[];
}
interface Seen {
  readonly missed: number;
  readonly runs: unknown[];
  readonly callers: SeenCaller[];
}

/** Asks once on each of many connections, over so many threads. */
const MANY = `
import http.client, sys, threading
count, threads = int(sys.argv[1]), int(sys.argv[2])
failed = []
def ask(times):
    for _ in range(times):
        try:
            connection = http.client.HTTPConnection("169.254.169.254", timeout=40)
            connection.request("GET", "/latest/meta-data/placement/region")
            connection.getresponse().read()
            connection.close()
        except OSError as error:
            failed.append(error)
all = [threading.Thread(target=ask, args=(count // threads,)) for _ in range(threads)]
for one in all: one.start()
for one in all: one.join()
print(len(failed))
`;
/** Three requests on one connection, which stays open, as the process does, until a file says that it was seen. */
const KEPT = `
import http.client, os, time
connection = http.client.HTTPConnection("169.254.169.254", timeout=40)
def ask(method, path, headers):
    connection.request(method, path, headers=headers)
    return connection.getresponse().read().decode()
token = ask("PUT", "/latest/api/token", {"${TTL_HEADER}": "60"})
for path in ("/latest/user-data", "/latest/meta-data/placement/region"):
    ask("GET", path, {"${TOKEN_HEADER}": token, "User-Agent": "kept/1"})
print("asked", flush=True)
while not os.path.exists("/run/seen/end"): time.sleep(0.05)
`;

describeAsRoot("observe", () => {
  let node: SimulatedNode;
  const running: Running[] = [];
  const root = (...argv: string[]) => node.exec({ ...ROOT, argv });
  const rules = () => mustExec(node, ROOT, ["nft", "--stateless", "list", "ruleset"]);

  /** Starts it, and resolves when its rules are there. */
  const observe = (...flags: string[]) => start("--file", FILE, ...flags);
  async function start(...flags: string[]): Promise<Running> {
    const one = node.spawn({
      ...ROOT,
      argv: ["imdsproxy", "observe", ...flags],
      timeoutMs: 0,
    });
    running.push(one);
    let hasEnded = false;
    void one.done.then(() => {
      hasEnded = true;
    });
    while (!one.stderr().includes("listening;")) {
      if (hasEnded) throw new Error(`observe ended: ${one.stdout()}${one.stderr()}`);
      await Bun.sleep(10);
    }
    return one;
  }
  /** What it says in the end. */
  async function end(one: Running): Promise<Seen> {
    one.kill("SIGINT");
    const { exitCode, stdout, stderr } = await one.done;
    expect([exitCode, stderr.replace(/^(?:note: cgroup v2 .*\n)?listening;.*\n/, "")]).toEqual([0, ""]);
    return JSON.parse(stdout) as Seen;
  }
  /** Starts a program of alice's in a cgroup, and resolves when it has asked. */
  const inCgroup = (path: string) => {
    const become = "setpriv --reuid=2001 --regid=2001 --init-groups --";
    const move = `mkdir -p ${cgroupMount()}${path}; echo $$ >${cgroupMount()}${path}/cgroup.procs`;
    const program = "/usr/bin/python3 /run/seen/kept.py x=1; :";
    return kept({ ...ROOT, argv: ["sh", "-euc", `${move}; exec ${become} sh -c '${program}'`] });
  };
  async function kept(command: Who & { argv: string[] }): Promise<Running> {
    const one = node.spawn({ ...command, timeoutMs: 0 });
    let hasEnded = false;
    void one.done.then(() => {
      hasEnded = true;
    });
    while (one.stdout() !== "asked\n") {
      if (hasEnded) throw new Error(`it ended: ${one.stdout()}${one.stderr()}`);
      await Bun.sleep(10);
    }
    return one;
  }
  const ofUser = ({ callers }: Seen, uid: number | null) => callers.filter((caller) => caller.uid === uid);
  const counted = (callers: readonly SeenCaller[], field: "categories" | "userAgents") => {
    const counts: Record<string, number> = {};
    for (const [text, times] of callers.flatMap((caller) => caller[field]))
      counts[text] = (counts[text] ?? 0) + times;
    return counts;
  };
  const sum = (callers: readonly SeenCaller[], field: "connections" | "requests" | "v1" | "v2") =>
    callers.reduce((total, caller) => total + caller[field], 0);

  beforeAll(async () => {
    node = await startTestNode({
      show: { "/run/repository": resolve(import.meta.dir, "../..") },
      users: [
        { name: "alice", uid: 2001, groups: ["data"] },
        { name: "bob", uid: 2002 },
      ],
    });
    node.write("/run/seen/many.py", MANY);
    node.write("/run/seen/kept.py", KEPT);
  });
  afterAll(async () => {
    await node?.stop();
    const job = `/system.slice/slurmstepd.scope/job_${JOB}`;
    for (const path of [`/system.slice/${UNIT}`, `${job}/step_0`, job])
      Bun.spawnSync(["rmdir", `${cgroupMount()}${path}`]);
  });

  test("makes the rules that it says, which nft(8) reads the same, and leaves none behind when it is killed", async () => {
    const before = await rules();
    const one = await observe("--json");
    const table = await mustExec(node, ROOT, [
      "nft",
      "--stateless",
      "list",
      "table",
      "inet",
      "imdsproxy_observe",
    ]);
    const group = Number(/log group (\d+)/.exec(table)?.[1]);
    expect(table).toContain("flags owner");
    for (const { name, rules: texts } of observeChains(group)) {
      const [, body = ""] = table.split(`chain ${name} {`);
      const lines = body.split("}")[0]?.trim().split(/\n\s*/).slice(1);
      expect(lines).toEqual(texts.map(({ text }) => text));
    }
    expect((await rules()).replace(table, "")).toBe(before);
    const second = await root("imdsproxy", "observe", "--for", "1s");
    const refusal = "another imdsproxy observe runs on this node";
    expect([second.exitCode, second.stderr]).toEqual([1, expect.stringContaining(refusal)]);
    one.kill("SIGKILL");
    await one.done;
    expect(await rules()).toBe(before);
  });

  test("removes what a killed one leaves on a kernel without tables of an owner", async () => {
    const before = await rules();
    const leave = ["nft", "add", "table", "inet", "imdsproxy_observe"];
    await mustExec(node, ROOT, leave);
    expect((await root("imdsproxy", "observe", "--sweep")).stdout).toBe(
      "removed the table of an observe that was killed\n",
    );
    expect(await rules()).toBe(before);
  });

  /** Runs test/observe/capture.ts, and resolves at its first line. */
  async function capture(...args: string[]): Promise<Running> {
    const argv = [
      "/run/repository/node_modules/.bin/bun",
      "/run/repository/test/observe/capture.ts",
      ...args,
    ];
    const one = node.spawn({ ...ROOT, argv, timeoutMs: 0 });
    running.push(one);
    await eventually("it listens", () => {
      if (one.stderr() !== "") throw new Error(one.stderr());
      return one.stdout().includes("\n");
    });
    return one;
  }

  test("as before linux 5.12, by a table without an owner: kill -9 leaves it, and the next start removes it", async () => {
    const before = await rules();
    const old = await capture("unowned");
    expect(JSON.parse(old.stdout())).toEqual({ owned: false, problem: null });
    const table = ["nft", "--stateless", "list", "table", "inet", "imdsproxy_observe"];
    const listed = await mustExec(node, ROOT, table);
    expect(listed).toContain("log group");
    expect(listed).not.toContain("flags owner");
    old.kill("SIGKILL");
    await old.done;
    expect(await mustExec(node, ROOT, table)).toBe(listed);
    const next = await start("--file", "none", "--json");
    expect(await mustExec(node, ROOT, table)).toContain("flags owner");
    await curl(node, { user: "alice" }, `${IMDS4}/latest/user-data`);
    expect(sum(ofUser(await end(next), 2001), "connections")).toBe(1);
    expect(await rules()).toBe(before);
  });

  test("what the kernel drops because nobody reads is counted: an overrun (ENOBUFS), by the numbers of later packets", async () => {
    const CONNECTIONS = 60;
    const small = await capture("small", "/run/seen/read");
    const many = (count: number) =>
      mustExec(node, { user: "alice" }, ["/usr/bin/python3", "/run/seen/many.py", String(count), "1"]);
    expect(await many(CONNECTIONS)).toBe("0\n");
    node.write("/run/seen/read", "");
    await eventually("it has read", () => small.stdout().includes("read\n"));
    expect(await many(1)).toBe("0\n");
    node.write("/run/seen/read.end", "");
    expect((await small.done).exitCode).toBe(0);
    const { read, missed, syns, wasOverrun } = JSON.parse(small.stdout().split("\n").at(-2) ?? "");
    expect(wasOverrun).toBe(true);
    expect(missed).toBeGreaterThan(0);
    // Each connection is one SYN and its request at the least: nothing is missing that is not counted.
    expect(syns).toBeLessThan(CONNECTIONS);
    expect(read + missed).toBeGreaterThanOrEqual(2 * (CONNECTIONS + 1));
  });

  test("sees exactly what a script of several users did, each thing once", async () => {
    const one = await observe("--json");
    for (let i = 0; i < 3; i++) await curl(node, { user: "alice" }, `${IMDS4}/latest/${CREDENTIALS}/`);
    const token = await tokenOf(node, { user: "bob" });
    await curl(node, { user: "bob" }, `${IMDS4}/latest/user-data`, ["-H", `${TOKEN_HEADER}: ${token}`]);
    await curl(node, { user: "bob" }, `${IMDS4}/latest/meta-data/../x`);
    await curl(node, { uid: 5010 }, `${AGENT}/latest/meta-data/placement/region`);
    if (node.ipv6) await curl(node, { uid: 5010 }, `${IMDS6}/latest/meta-data/instance-id`, ["-A", "six/1"]);
    await curl(node, ROOT, `${IMDS4}/latest/dynamic/instance-identity/document`);
    const seen = await end(one);

    expect(seen.missed).toBe(0);
    expect(seen.callers.every(({ uid }) => [0, 2001, 2002, 5010].includes(uid ?? -1))).toBe(true);
    const [alice, bob, nameless, roots] = [2001, 2002, 5010, 0].map((uid) => ofUser(seen, uid));
    if (!alice || !bob || !nameless || !roots) throw new Error("nobody");
    expect(counted(alice, "categories")).toEqual({ [CREDENTIALS]: 3 });
    expect([sum(alice, "connections"), sum(alice, "v1"), sum(alice, "v2")]).toEqual([3, 3, 0]);
    expect(counted(bob, "categories")).toEqual({ "api/token": 1, "user-data": 1, "(odd spelling)": 1 });
    expect([sum(bob, "connections"), sum(bob, "v1"), sum(bob, "v2")]).toEqual([3, 1, 2]);
    expect(counted(nameless, "categories")).toEqual({
      "meta-data/placement/region": 1,
      ...(node.ipv6 ? { "meta-data/instance-id": 1 } : {}),
    });
    if (node.ipv6) expect(counted(nameless, "userAgents")["six/1"]).toBe(1);
    expect(counted(roots, "categories")).toEqual({ "dynamic/instance-identity/document": 1 });
    expect(alice[0]?.account?.groups.toSorted()).toEqual(["alice", "data"]);
    expect(nameless[0]?.account?.user).toBeNull();
    // The file has neither tokens nor anything of an answer.
    const file = readFileSync(node.path(FILE), "utf8");
    for (const secret of [token, node.secrets.role.secretAccessKey, node.secrets.marker])
      expect(file).not.toContain(secret);
  });

  test("knows program, arguments, parents and unit of a caller, and the requests of a kept connection", async () => {
    const one = await observe("--json");
    // They run until it has ended, so that it finds them however late it looks.
    const asking = [
      await inCgroup(`/system.slice/${UNIT}`),
      await inCgroup(`/system.slice/slurmstepd.scope/job_${JOB}/step_0`),
      await kept({ user: "bob", argv: ["/usr/bin/python3", "/run/seen/kept.py"] }),
    ];
    const seen = await end(one);
    node.write("/run/seen/end", "");
    await Promise.all(asking.map(({ done }) => done));
    const unit = ofUser(seen, 2001).find(({ place }) => place.kind === "unit");
    expect(unit).toMatchObject({
      place: { kind: "unit", name: UNIT },
      connections: 1,
      requests: 3,
      v1: 0,
      v2: 3,
    });
    expect(Object.fromEntries(unit?.categories ?? [])).toEqual({
      "api/token": 1,
      "user-data": 1,
      "meta-data/placement/region": 1,
    });
    expect(unit?.userAgents).toContainEqual(["kept/1", 2]);
    expect(unit?.program).toMatch(/^\/usr\/bin\/python3/);
    expect(unit?.parents).toEqual(["sh"]);
    // What head(1) could still read; where it came too late, it is unknown.
    expect([null, ["/run/seen/kept.py", "x="]]).toContainEqual(unit?.arguments ?? null);
    const job = ofUser(seen, 2001).find(({ place }) => place.kind === "slurm");
    expect(job).toMatchObject({ jobs: [String(JOB)], requests: 3 });
    // Added to what the test before has put into the file.
    expect([sum(ofUser(seen, 2002), "v2"), sum(ofUser(seen, 2001), "v1")]).toEqual([2 + 3, 3]);
    expect(seen.runs.length).toBe(2);
  });

  test("misses nothing of thousands of connections, or says how many packets, and changes no answer", async () => {
    const CONNECTIONS = 2_000;
    const paths = [
      "/latest/meta-data/placement/region",
      `/latest/${CREDENTIALS}/`,
      "/latest/nothing",
      "/latest/meta-data/../x",
    ];
    const answers = async () => {
      const all = await Promise.all(paths.map((path) => curl(node, { user: "bob" }, `${IMDS4}${path}`)));
      return all.map(({ status, headers, body }) => [
        status,
        [...headers].filter(([name]) => !["date", "last-modified"].includes(name)),
        body,
      ]);
    };
    const before = await answers();
    const one = await start("--file", "none", "--json");
    const many = mustExec(node, { user: "alice" }, [
      "/usr/bin/python3",
      "/run/seen/many.py",
      String(CONNECTIONS),
      "10",
    ]);
    expect(await answers()).toEqual(before);
    expect(await many).toBe("0\n");
    one.kill("SIGTERM");
    const { stdout } = await one.done;
    const seen = JSON.parse(stdout) as Seen;
    const alice = ofUser(seen, 2001);
    for (const field of ["connections", "requests"] as const) {
      expect(sum(alice, field)).toBeLessThanOrEqual(CONNECTIONS);
      expect(CONNECTIONS - sum(alice, field)).toBeLessThanOrEqual(seen.missed);
    }
    console.log(
      `observe: ${sum(alice, "connections")} of ${CONNECTIONS} connections seen, ${seen.missed} packets missed`,
    );
  });

  describe("what it has seen", () => {
    test("is shown without listening, in 80 columns", async () => {
      const { stdout, exitCode } = await root("imdsproxy", "observe", "--file", FILE, "--show");
      expect(exitCode).toBe(0);
      const [, , head, ...lines] = stdout.split("\n");
      expect(head).toBe("USER        WHERE                 PROGRAM          ASKED IMDS WOULD GET");
      expect(lines.slice(0, 5).every((line) => line.length <= 80)).toBe(true);
      expect(stdout).toContain("no configuration here: name one with --config FILE");
    });
    test("makes a draft that config check takes", async () => {
      const { stdout } = await root("imdsproxy", "observe", "--file", FILE, "--suggest");
      node.write("/run/seen/draft.yaml", stdout);
      const checked = await root("imdsproxy", "config", "check", "/run/seen/draft.yaml");
      expect([checked.exitCode, checked.stdout]).toEqual([0, expect.stringContaining("is good: 1 rule,")]);
    });
    test("tells what each would get, and who gets something else by another configuration", async () => {
      node.write("/run/seen/old.yaml", "role: arn:aws:iam::123456789012:role/All\n");
      node.write(
        "/run/seen/new.yaml",
        "rules: [{ name: data, match: { group: data }, role: arn:aws:iam::123456789012:role/Data }]\n",
      );
      const { stdout } = await root(
        "imdsproxy",
        "observe",
        "--file",
        FILE,
        "--show",
        "--json",
        "--config",
        "/run/seen/new.yaml",
      );
      const seen = JSON.parse(stdout) as Seen;
      const [alice, bob, roots] = [2001, 2002, 0].map((uid) => ofUser(seen, uid));
      expect(alice?.every(({ wouldGet }) => wouldGet?.rule === "data")).toBe(true);
      expect(bob?.every(({ wouldGet }) => wouldGet?.kind === "refused")).toBe(true);
      expect(roots?.every(({ wouldGet }) => wouldGet?.kind === "exempt")).toBe(true);
      expect(bob?.flatMap(({ wouldBe404 }) => wouldBe404)).toContain("user-data");

      const diff = (...flags: string[]) =>
        root("imdsproxy", "config", "diff", "/run/seen/old.yaml", "/run/seen/new.yaml", ...flags);
      const against = await diff("--against", FILE);
      expect([against.exitCode, against.stdout]).toEqual([
        0,
        expect.stringMatching(/^bob .* All +refused$/m),
      ]);
      const found = JSON.parse((await diff("--json")).stdout) as {
        changes: { who: string; where: string }[];
      };
      const named = found.changes.map(({ who }) => who);
      expect(named).toContain("alice");
      expect(named).toContain("bob");
      expect(named).not.toContain("root");
    });
    test("is not added to where the file is another's or broken", async () => {
      await mustExec(node, ROOT, [
        "sh",
        "-euc",
        "mkdir /run/seen/hers; cp /run/seen/observed.json /run/seen/hers; chown -R alice /run/seen/hers",
      ]);
      const hers = await root(
        "imdsproxy",
        "observe",
        "--for",
        "1s",
        "--file",
        "/run/seen/hers/observed.json",
      );
      expect([hers.exitCode, hers.stderr]).toEqual([1, expect.stringContaining("belongs to uid 2001")]);
      node.write("/run/seen/cut.json", "{");
      const cut = await root("imdsproxy", "observe", "--for", "1s", "--file", "/run/seen/cut.json");
      expect([cut.exitCode, cut.stderr]).toEqual([2, expect.stringContaining("it is not JSON")]);
      expect(readFileSync(node.path("/run/seen/cut.json"), "utf8")).toBe("{");
    });
    test("nobody but root may see it", async () => {
      const { exitCode, stderr } = await node.exec({
        user: "alice",
        argv: ["imdsproxy", "observe", "--show"],
      });
      expect([exitCode, stderr]).toEqual([1, expect.stringContaining("only root may see")]);
    });
  });

  test("sees callers as they are where the proxy serves them", async () => {
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node)));
    await applyRules(node);
    await node.startProxy();
    const one = await start("--file", "none", "--json");
    for (let i = 0; i < 3; i++) {
      const answer = await curl(node, { user: "alice" }, `${IMDS4}/latest/${CREDENTIALS}/`);
      expect([answer.status, answer.body]).toEqual([200, "ImdsProxyTestRole"]);
    }
    await curl(node, { user: "alice" }, `${IMDS4}/latest/user-data`);
    const seen = await end(one);
    const alice = ofUser(seen, 2001);
    expect([sum(alice, "connections"), sum(alice, "requests")]).toEqual([4, 4]);
    expect(counted(alice, "categories")).toEqual({ [CREDENTIALS]: 3, "user-data": 1 });
    expect(alice.every(({ wouldGet }) => wouldGet?.role?.endsWith("role/ImdsProxyTestRole"))).toBe(true);
    expect(alice.flatMap(({ wouldBe404 }) => wouldBe404)).toEqual(["user-data"]);
  });

  test("sees containers behind a bridge by their address, once", async () => {
    await mustExec(node, ROOT, ["sh", "-euc", BRIDGE]);
    const one = await start("--file", "none", "--json");
    const path = "/latest/meta-data/instance-id";
    const asked = ["ip", "netns", "exec", "box", "curl", "-s", "--max-time", "40", `${IMDS4}${path}`];
    expect(await mustExec(node, ROOT, asked)).toStartWith("i-");
    const boxes = (await end(one)).callers.filter(({ place }) => place.kind === "bridge");
    expect(boxes).toMatchObject([
      {
        uid: null,
        container: "172.17.0.2",
        connections: 1,
        requests: 1,
        v1: 1,
        wouldGet: { kind: "untouched" },
      },
    ]);
  });

  test("lets an operator's firewall be loaded anew, and stays", async () => {
    const one = await observe();
    node.write("/run/seen/reload.nft", "flush ruleset\ntable inet operators {\n}\n");
    await mustExec(node, ROOT, ["nft", "-f", "/run/seen/reload.nft"]);
    await mustExec(node, ROOT, ["nft", "-f", "/run/seen/reload.nft"]);
    expect(await rules()).toContain("table inet imdsproxy_observe");
    one.kill("SIGINT");
    expect((await one.done).exitCode).toBe(0);
    expect(await rules()).toBe("table inet operators {\n}\n");
  });

  test("as before linux 5.12, is not lost with a firewall that is loaded anew: its rules come again, and the report says that there was a gap", async () => {
    const old = await capture("unowned");
    node.write("/run/seen/flush.nft", "flush ruleset\n");
    await mustExec(node, ROOT, ["nft", "-f", "/run/seen/flush.nft"]);
    await eventually("the table is there again", () => old.stdout().includes("restored\n"));
    // The walls of the test above stand between users and the address; root asks the agent straight.
    await curl(node, ROOT, `${AGENT}/latest/user-data`);
    old.kill("SIGTERM");
    const { exitCode, stdout } = await old.done;
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout.trim().split("\n").at(-1) ?? "")).toEqual({ requests: 1, gap: true });
    expect(await rules()).toBe("");
  });
});
