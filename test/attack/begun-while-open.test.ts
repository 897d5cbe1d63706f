import { afterAll, beforeAll, expect, test } from "bun:test";
import { mustExec } from "../support/node.ts";
import { applyRules, eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { attack, flushBut, SHOW_PROGRAMS } from "./support/attack.ts";

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const FLUSH = flushBut();
const SHORT_S = 2;
/** Longer than a client waits for a connection, and shorter than conntrack keeps an entry of one that had no answer (120 s). */
const LONG_S = 20;

describeAsRoot("a connection that was begun while the rules were flushed", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode({ show: SHOW_PROGRAMS }));
  });
  afterAll(() => node?.stop());

  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  const from = (port: number, seconds: number, address = "169.254.169.254") =>
    attack<string>(node, ALICE, "from_port", [address, port, seconds]);

  for (const address of ["169.254.169.254", "fd00:ec2::254"]) {
    test(`to ${address} does not keep a later one from the same port from the proxy, once apply has run`, async () => {
      const served = await from(40_001, LONG_S, address);
      expect(served).toMatch(/^HTTP\/1.1 /);
      await shell(FLUSH);
      expect(await from(40_002, SHORT_S, address)).not.toContain("HTTP");
      await applyRules(node);
      expect(await from(40_002, LONG_S, address)).toBe(served);
    });
  }

  test("cannot be made by a user while the rules stand, from the address that users' connections have", async () => {
    await applyRules(node);
    const tries = await attack<Record<string, number>>(node, ALICE, "from_users_source", [200]);
    // UDP goes through, and is not what is looked for.
    expect(Object.keys(tries)).not.toContain("connected");
    const tracked = (protocol: string) =>
      shell(`conntrack -L -p ${protocol} -s 127.169.254.1 2>/dev/null | grep -c 'src=169.254.0.2 ' || :`);
    expect(Number(await tracked("udp"))).toBeGreaterThanOrEqual(200);
    expect(Number(await tracked("tcp"))).toBe(0);
  });

  const log = () => shell("cat /run/watch.log");
  // Not by node.spawn: nsenter stops with its child, and is not continued with it.
  const startWatch = async () =>
    (await shell("imdsproxy iptables watch >/run/watch.log 2>&1 & echo $!")).trim();
  const known = () =>
    eventually("the rules are known", async () =>
      (await shell("cat /run/imdsproxy/rules.json 2>/dev/null || :")).includes('"tables"'),
    );
  const repaired = () =>
    eventually("the repair is logged", async () => (await log()).includes("firewall rules repaired: "));

  test("does not either, once the watch has found the rules gone and repaired them", async () => {
    const watch = await startWatch();
    try {
      await known();
      await shell(`kill -STOP ${watch}`);
      await shell(FLUSH);
      expect(await from(40_003, SHORT_S)).not.toContain("HTTP");
      await shell(`kill -CONT ${watch}`);
      await repaired();
      expect(await from(40_003, LONG_S)).toMatch(/^HTTP\/1.1 /);
    } finally {
      await shell(`kill ${watch}`);
    }
  });

  test("nor where the watch is killed right after its repair, once another watches", async () => {
    let watch = await startWatch();
    try {
      await known();
      await shell(`kill -STOP ${watch}`);
      await shell(FLUSH);
      expect(await from(40_004, SHORT_S)).not.toContain("HTTP");
      await shell(`kill -CONT ${watch}`);
      await repaired();
      await shell(`kill -KILL ${watch}`);
      watch = await startWatch();
      expect(await from(40_004, LONG_S)).toMatch(/^HTTP\/1.1 /);
    } finally {
      await shell(`kill ${watch}`);
    }
  });
});

describeAsRoot("the same with an agent at the proxy's own address", () => {
  test("does not keep a later one from the same port from the proxy", async () => {
    const { node } = await startProxiedNode({ show: SHOW_PROGRAMS }, { upstream: "http://127.0.0.1:9081" });
    const from = (seconds: number) =>
      attack<string>(node, ALICE, "from_port", ["169.254.169.254", 40_002, seconds]);
    try {
      await mustExec(node, ROOT, ["sh", "-euc", flushBut("127.0.0.1:9081")]);
      expect(await from(SHORT_S)).not.toContain("HTTP");
      await applyRules(node);
      expect(await from(LONG_S)).toMatch(/^HTTP\/1.1 /);
    } finally {
      await node.stop();
    }
  });
});
