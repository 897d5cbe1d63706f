import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Running } from "../../src/demo/run.ts";
import { USERS_SOURCE } from "../../src/firewall/wall/tables.ts";
import { curl, IMDS4, IMDS6, mustExec } from "../support/node.ts";
import { eventually, givenCredentials, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode, Who } from "../support/simulated-node.ts";
import { endSendingRules } from "./support/agents-place.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * Alice listens on the proxy's port on a node whose net.ipv4.ip_unprivileged_port_start gives it to everybody, and answers
 * as a metadata service does. Bob must not hear her, whatever address she takes and whether the proxy is there or not.
 */

const ROOT: Who = { user: "root" };
const ALICE: Who = { user: "alice" };
const BOB: Who = { user: "bob" };
const PORT = 254;
const CHAIN_RULE = `IMDSPROXY -p tcp -m owner --socket-exists -m tcp --sport ${PORT} -j DROP`;
/** Among 28,000 ports it takes her as many sockets. */
const [FIRST, LAST] = [40_000, 40_063];
/** Where root alone is exempt. */
const WALL_RULE = `ipproto tcp sport ${PORT} uidrange 1-4294967294`;

describeAsRoot("listening on the proxy's port where it is everybody's", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
    node = proxied.node;
    await mustExec(node, ROOT, ["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0"]);
  });
  afterAll(() => node?.stop());

  const impostors: Running[] = [];
  /** Alice takes the port at an address; what came of it. */
  async function impostor(address: string, ...options: string[]): Promise<string> {
    const argv = ["/usr/bin/python3", "/run/attack/impostor.py", address, String(PORT), ...options];
    const running = node.spawn({ ...ALICE, argv, timeoutMs: 0 });
    impostors.push(running);
    await eventually("it says what came of it", () => running.stdout() !== "");
    return running.stdout().split("\n")[0] ?? "";
  }
  /** Ends what alice started; what reached her beside that she listens. */
  async function end(): Promise<string> {
    const all = impostors.splice(0);
    for (const one of all) one.kill("SIGKILL");
    await Promise.all(all.map(({ done }) => done));
    return all.map((one) => one.stdout().replace(/^\w+\n/, "")).join("");
  }
  /** What bob is given at an address: the body, or `nothing`. An SDK waits a second for a connection. */
  async function bobAsks(base: string): Promise<string> {
    const path = "/latest/meta-data/iam/security-credentials/Impostor";
    const { exitCode, body } = await curl(node, BOB, base + path, ["--max-time", "1"]);
    return exitCode === 0 ? body : "nothing";
  }

  const places = () => ["127.0.0.1", "127.0.0.2", "0.0.0.0", ...(node.ipv6 ? ["::1", "::"] : [])];
  /** How bob would come to her: by the redirect, and straight. */
  const ways = (address: string) => {
    if (address === "127.0.0.2") return [`http://127.0.0.2:${PORT}`];
    if (address === "::1") return [IMDS6, `http://[::1]:${PORT}`];
    if (address === "::") return [IMDS4, IMDS6];
    return address === "0.0.0.0" ? [IMDS4, `http://10.77.0.2:${PORT}`] : [IMDS4];
  };

  describe("while the proxy is down", () => {
    beforeAll(() => proxied.proxy.stop());
    afterAll(() => proxied.restart());

    test("the attack is sound: without the rule, bob has her credentials", async () => {
      await mustExec(node, ROOT, ["iptables", "-w", "5", "-D", ...CHAIN_RULE.split(" ")]);
      await endSendingRules(node, WALL_RULE);
      try {
        expect(await impostor("127.0.0.1")).toBe("listening");
        await eventually("bob has hers", async () => (await bobAsks(IMDS4)).includes("IMPOSTOR"));
      } finally {
        await end();
        await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
      }
    });

    for (const address of ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"]) {
      test(`at ${address}: bob gets nothing, and nothing of bob's reaches her`, async () => {
        if (!places().includes(address)) return;
        expect(await impostor(address)).toBe("listening");
        for (const way of ways(address)) expect([way, await bobAsks(way)]).toEqual([way, "nothing"]);
        expect(await end()).toBe("");
      });
    }

    test("connections that she has begun from there to every port of bob's do not keep him from the proxy once it is back", async () => {
      const range = (await mustExec(node, ROOT, ["sysctl", "-n", "net.ipv4.ip_local_port_range"])).trim();
      const crossing = async () => {
        const argv = ["/usr/bin/python3", "/run/attack/crossing.py", "127.0.0.1", String(PORT)];
        const alice = node.spawn({
          ...ALICE,
          argv: [...argv, String(FIRST), String(LAST), USERS_SOURCE],
          timeoutMs: 0,
        });
        await eventually("she says what came of it", () => alice.stdout().includes("}"));
        return {
          alice,
          ...(JSON.parse(alice.stdout().split("\n")[1] ?? "") as { holds: number }),
        };
      };
      await mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${FIRST} ${LAST}`]);
      try {
        const { alice, holds } = await crossing();
        await proxied.restart();
        expect((await givenCredentials(node, BOB)).body).toContain("SESSION/ImdsProxyTestRole/");
        alice.kill("SIGKILL");
        await Promise.all([alice.done, proxied.proxy.stop()]);
        expect(holds).toBe(0);
        await endSendingRules(node, WALL_RULE);
        const without = await crossing();
        expect(without.holds).toBeGreaterThan(0);
        await proxied.restart();
        await eventually(
          "bob's request finds her in its way",
          async () => (await bobAsks(IMDS4)) === "nothing",
        );
        without.alice.kill("SIGKILL");
        await Promise.all([without.alice.done, proxied.proxy.stop()]);
      } finally {
        await mustExec(node, ROOT, ["sysctl", "-qw", `net.ipv4.ip_local_port_range=${range}`]);
        await mustExec(node, ROOT, ["/run/bin/imdsproxy", "iptables", "apply"]);
      }
    }, 180_000);

    test("she keeps the proxy from starting, which says who to look for; when she is gone, it starts and bob is served", async () => {
      // Connections of the test before may wait out their minute (TIME_WAIT): with SO_REUSEADDR they do not keep the port.
      expect(await impostor("127.0.0.1", "SO_REUSEADDR")).toBe("listening");
      const { exitCode, stderr } = await node.exec({
        ...ROOT,
        argv: ["/run/bin/imdsproxy", "serve"],
        timeoutMs: 40_000,
      });
      expect([exitCode, stderr]).toEqual([1, expect.stringContaining("the port is taken")]);
      expect(await end()).toBe("");
      await proxied.restart();
      try {
        expect((await givenCredentials(node, BOB)).body).toContain("SESSION/ImdsProxyTestRole/");
        await eventually("the log says so", () =>
          proxied.proxy.output().includes("every user of this node may bind the port"),
        );
      } finally {
        await proxied.proxy.stop();
      }
    });
  });

  test("over restarts, while she takes the port whenever it is free: no answer of hers, no byte of bob's", async () => {
    await proxied.proxy.stop();
    const argv = ["/usr/bin/python3", "/run/attack/squatter.py", "127.0.0.1", String(PORT)];
    const taking = node.spawn({ ...ALICE, argv, timeoutMs: 0 });
    await eventually("she has the port", () => taking.stdout() !== "");
    const answers: string[] = [];
    let over = false;
    const bob = (async () => {
      while (!over) answers.push(await bobAsks(IMDS4));
    })();
    // As systemd does it: again where she was first. It listens once it says that it is ready; before, that may be she.
    const start = async (): Promise<void> => {
      for (;;) {
        let ended = false;
        try {
          const proxy = await node.startProxy();
          void proxy.done.then(() => {
            ended = true;
          });
          await eventually("it is ready or has ended", () => ended || proxy.output().includes('"ready"'));
          if (ended) continue;
          proxied.proxy = proxy;
          return;
        } catch (error) {
          if (!String(error).includes("the port is taken")) throw error;
        }
      }
    };
    try {
      for (const signal of ["SIGTERM", "SIGKILL", "SIGTERM", "SIGKILL"] as const) {
        await start();
        expect((await givenCredentials(node, BOB)).body).toContain("SESSION/ImdsProxyTestRole/");
        await proxied.proxy.stop(signal);
      }
    } finally {
      over = true;
      await bob;
      taking.kill("SIGKILL");
      await taking.done;
    }
    await proxied.restart();
    expect(answers.length).toBeGreaterThan(0);
    expect(answers.filter((answer) => answer.includes("IMPOSTOR"))).toEqual([]);
    expect(taking.stdout()).toBe("listening\n");
  }, 180_000);

  test("beside a running proxy: the same address is its account's alone, another one answers nobody", async () => {
    for (const [address, ...options] of [
      ["127.0.0.1", "SO_REUSEPORT"],
      ["0.0.0.0", "SO_REUSEPORT"],
      ["0.0.0.0", "SO_REUSEADDR"],
    ] as const) {
      expect([address, ...options, await impostor(address, ...options)]).toEqual([
        address,
        ...options,
        "EADDRINUSE",
      ]);
    }
    expect(await impostor("127.0.0.2")).toBe("listening");
    expect(await bobAsks(`http://127.0.0.2:${PORT}`)).toBe("nothing");
    expect((await givenCredentials(node, BOB)).body).toContain("SESSION/ImdsProxyTestRole/");
    expect(await end()).toBe("");
  });

  test("status says that the port is everybody's, with the setting and what it should be", async () => {
    const { stdout } = await node.exec({ ...ROOT, argv: ["/run/bin/imdsproxy", "iptables", "status"] });
    expect(stdout).toContain("every user of this node may bind port 254");
    expect(stdout).toContain("net.ipv4.ip_unprivileged_port_start is 0");
    expect(stdout).toContain("set it to 1024");
  });
});
