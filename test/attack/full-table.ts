import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import type { SimulatedNode, Who } from "../../src/demo/node.ts";
import type { Running } from "../../src/demo/run.ts";
import { NO_LATER_THREADS } from "../../src/platform/engine-options.ts";
import { mustExec, TEST_ROLE } from "../support/node.ts";
import { eventually, type ProxiedNode, startProxiedNode, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * Alice takes every process of the node, then somebody flushes the firewall, and then the proxy and the watch are killed. The node
 * has a limit of processes of its own: kernel.pid_max is a pid namespace's since linux 6.14, and the machine's before that, where
 * this would be an attack on whoever runs it.
 *
 * Run when asked for, `bun test --timeout=60000 ./test/attack/full-table.ts`: it takes 25 to 60 s on two busy cores.
 */

const [major = 0, minor = 0] = release().split(".").map(Number);
const hasOwnLimit = major > 6 || (major === 6 && minor >= 14);
const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
/** The first 300 are given away at the start alone (RESERVED_PIDS, linux/pid.h). */
const PID_MAX = 800;
const FLUSHES = [
  "iptables -F; ip6tables -F",
  "iptables -t nat -F; ip6tables -t nat -F",
  "nft flush ruleset",
  "iptables -I OUTPUT -j ACCEPT",
];

describeAsRoot("a node whose last process alice has", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  const running: Running[] = [];
  /** A process of the node, as the machine sees it. */
  let inside = 0;
  const path = (name: string) => `/run/attacked/${name}`;
  const at = (name: string) => node.path(path(name));
  const read = (name: string) => (existsSync(at(name)) ? readFileSync(at(name), "utf8") : "");
  const spawn = (who: Who, argv: readonly string[], env: Readonly<Record<string, string>> = {}) => {
    const one = node.spawn({ ...who, argv, env, timeoutMs: 0 });
    running.push(one);
    return one;
  };
  const python = (who: Who, name: string, ...args: string[]) =>
    spawn(who, ["/usr/bin/python3", `/run/attack/${name}.py`, ...args]);
  /** In the node's network and files, as a process of the machine: the node has none left. */
  async function fromOutside(line: string): Promise<void> {
    const argv = ["nsenter", `--target=${inside}`, "--net", "--mount", "--root", "--", "sh", "-c", line];
    const child = Bun.spawn(argv, { stdout: "ignore", stderr: "pipe" });
    if ((await child.exited) !== 0) throw new Error(`${line}: ${await new Response(child.stderr).text()}`);
  }
  const rounds = (name: string) => read(name).split("\n").slice(0, -1);
  /** What a steady asker is told from now on, so often. */
  async function next(name: string, count: number): Promise<string[]> {
    const before = rounds(name).length;
    await eventually(`${name} has asked ${count} times`, () => rounds(name).length >= before + count, 60_000);
    return rounds(name).slice(before);
  }
  const ROLE = TEST_ROLE.replace(/^.*\//, "");
  const only = (said: readonly string[]) => [...new Set(said)];
  const isServed = (name: string, role = ROLE) =>
    eventually(`${name} is served`, async () => only(await next(name, 1)).join() === role, 60_000);
  const leaks = () => [...read("thief")].filter((one) => one === "L").length;
  async function thiefTries(count: number): Promise<void> {
    const tried = () => read("thief").replaceAll("L", "").length;
    const before = tried();
    await eventually("alice has tried each way", () => tried() >= before + count, 60_000);
  }

  beforeAll(async () => {
    proxied = await startProxiedNode({
      users: ["alice", "bob", "carol"].map((name, i) => ({ name, uid: 2001 + i })),
      show: SHOW_PROGRAMS,
    });
    node = proxied.node;
    await proxied.proxy.stop();
    proxied.proxy = await node.startProxy({ env: NO_LATER_THREADS });
    await mustExec(node, ROOT, ["sh", "-c", "mkdir -m 1777 /run/attacked"]);
    spawn(ROOT, ["/run/bin/imdsproxy", "iptables", "watch"], NO_LATER_THREADS);
  });
  afterAll(async () => {
    for (const one of running) one.kill("SIGKILL");
    await node?.stop();
  });

  test.skipIf(!hasOwnLimit)(
    "is closed, serves root and who has a session, and makes sessions, until the proxy is killed; then it is closed",
    async () => {
      for (const [who, name] of [
        [BOB, "bob"],
        [ROOT, "root"],
        [{ user: "carol" }, "carol"],
      ] as const) {
        python(who, "steady", path(name === "carol" ? "carols-start" : "start"), path("stop"), path(name));
      }
      const watch = running[0] as Running;
      writeFileSync(at("start"), "");
      await isServed("bob");
      python(ALICE, "thief", node.roleName, path("stop"), path("thief"));
      // Work for the proxy while it can begin no thread: what it allocates has to be collected.
      const load = spawn(ALICE, ["/usr/bin/python3", "/run/attack/flood.py", "404", "8", "1"]);
      await thiefTries(1);

      await mustExec(node, ROOT, ["sh", "-c", `echo ${PID_MAX} >/proc/sys/kernel/pid_max`]);
      const filler = python(ALICE, "fill");
      await eventually("alice has the last process", () => filler.stdout().startsWith("full "));
      inside = filler.pid() ?? 0;
      const refused = await node.exec({ ...ROOT, argv: ["true"] });
      expect(refused.exitCode).not.toBe(0);

      // Sessions are made: of a name that changes, for who is known.
      const calls = async () => (await node.sts.log()).filter(({ action }) => action === "AssumeRole").length;
      const before = await calls();
      node.write(
        "/etc/imdsproxy/config.yaml",
        JSON.stringify(testConfig(node, { sessionName: "full-{user}" })),
      );
      process.kill(proxied.proxy.pid, "SIGHUP");
      await eventually("bob has a new session", async () => (await calls()) > before);
      // Until STS has answered he may be told to come again.
      await isServed("bob");
      expect(only(await next("bob", 50))).toEqual([ROLE]);
      // The process that looks up a name which nobody knows yet is there already.
      writeFileSync(at("carols-start"), "");
      await isServed("carol");
      expect(only(await next("carol", 3))).toEqual([ROLE]);

      for (const flush of FLUSHES) {
        await fromOutside(flush);
        await isServed("bob");
        await isServed("root", node.roleName);
      }
      await thiefTries(1);
      expect((await load.done).exitCode).toBe(0);
      expect(process.kill(proxied.proxy.pid, 0)).toBe(true);
      expect(leaks()).toBe(0);

      watch.kill("SIGKILL");
      process.kill(proxied.proxy.pid, "SIGKILL");
      await proxied.proxy.done;
      for (const flush of FLUSHES) await fromOutside(flush);
      await thiefTries(1);
      expect(only(await next("bob", 3))).not.toContain(node.roleName);
      expect(leaks()).toBe(0);
      expect((await node.exec({ ...ROOT, argv: ["true"] })).exitCode).not.toBe(0);
    },
    180_000,
  );
});
