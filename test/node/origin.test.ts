import { afterAll, beforeAll, expect, test } from "bun:test";
import { resolve } from "node:path";
import { processTree } from "../../src/demo/namespace.ts";
import type { Running, RunResult } from "../../src/demo/run.ts";
import { signal } from "../../src/demo/run.ts";
import { awsArn, mustExec, startTestNode } from "../support/node.ts";
import { eventually, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const alice = { user: "alice" };
const root = { user: "root" };
const SUBSTITUTE = "arn:aws:sts::842413447717:assumed-role/ImdsProxyTestRole/alice@i-0123456789abcdef0";
const INSTANCE = "arn:aws:sts::842413447717:assumed-role/MySageMakerClusterInstanceRole/SageMaker";
const ORIGINAL =
  "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";

/** The documentation that this project began from, step by step, by its own make targets, in its own order. */
describeAsRoot("the documentation from top to bottom", () => {
  let node: SimulatedNode;
  let proxy: Running;
  let rulesAtFirst: string;
  beforeAll(async () => {
    node = await startTestNode({ show: { "/run/repository": resolve(import.meta.dir, "../..") } });
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node)));
    rulesAtFirst = await rules();
  });
  afterAll(() => node.stop());

  // --assume-old: the executable is built and shown; nothing is to be built on the node.
  const target = (name: string) => ["make", "-C", "/run/repository", "--assume-old=dist/imdsproxy", name];
  const make = (name: string, who: { user: string } = root): Promise<RunResult> =>
    node.exec({ ...who, argv: target(name) });
  const mustMake = (name: string) => mustExec(node, root, target(name));
  const rules = async () => {
    const saved = await mustExec(node, root, ["sh", "-c", "iptables-save; ip6tables-save"]);
    return saved.replaceAll(/^#.*\n|\[\d+:\d+\]/gm, "");
  };
  const natRules = () => mustExec(node, root, ["iptables-save", "-t", "nat"]);

  test("before: alice has the instance role, and check-direct-access says that access is open", async () => {
    expect(await awsArn(node, alice)).toBe(INSTANCE);
    const check = await make("check-direct-access", alice);
    expect([check.exitCode, check.stderr]).toEqual([0, expect.any(String)]);
  });

  test("remove-original-iptables-entry", async () => {
    expect(await natRules()).toContain(ORIGINAL);
    await mustMake("remove-original-iptables-entry");
    expect(await natRules()).not.toContain(ORIGINAL);
  });

  test("add-proxy-iptables-entries: without a proxy alice is refused", async () => {
    await mustMake("add-proxy-iptables-entries");
    expect(await natRules()).toContain("IMDSPROXY");
    const refused = await node.exec({
      ...alice,
      argv: ["curl", "-s", "--max-time", "20", "http://169.254.169.254/latest/"],
    });
    expect(refused.exitCode).toBe(7);
  });

  test("block-direct-access-to-sagemaker-role", async () => {
    await mustMake("block-direct-access-to-sagemaker-role");
    const direct = await node.exec({
      ...alice,
      argv: ["curl", "-s", "--max-time", "20", "http://169.254.0.2:9081/latest/"],
    });
    expect([7, 56]).toContain(direct.exitCode);
  });

  test("run-proxy, and aws sts get-caller-identity as alice and as root", async () => {
    proxy = node.spawn({ ...root, argv: target("run-proxy"), timeoutMs: 0 });
    await eventually("the proxy answers", async () => {
      const argv = [
        "curl",
        "-s",
        "--max-time",
        "20",
        "http://169.254.169.254/latest/meta-data/placement/region",
      ];
      return (await node.exec({ ...alice, argv })).stdout === "us-west-2";
    });
    expect(await awsArn(node, alice)).toBe(SUBSTITUTE);
    expect(await awsArn(node, root)).toBe(INSTANCE);
  });

  test("check-direct-access fails, and says why that is good", async () => {
    for (const who of [alice, root]) {
      const check = await make("check-direct-access", who);
      expect(check.exitCode).not.toBe(0);
      expect(check.stdout + check.stderr).toMatch(/good|as it should|closed/i);
    }
  });

  test("each step can be made twice", async () => {
    const once = await rules();
    for (const step of [
      "remove-original-iptables-entry",
      "add-proxy-iptables-entries",
      "block-direct-access-to-sagemaker-role",
    ]) {
      await mustMake(step);
    }
    expect(await rules()).toBe(once);
  });

  test("list-iptables and list-iptables-all show the rules", async () => {
    expect(await mustMake("list-iptables")).toContain("IMDSPROXY");
    expect(await mustMake("list-iptables-all")).toContain("IMDSPROXY");
  });

  test("the way back leaves the rules as they were, and alice with the instance role", async () => {
    // The proxy is make's child; at a terminal, Ctrl-C reaches both.
    for (const pid of processTree(proxy.pid() ?? 0).reverse()) signal(pid, "SIGTERM");
    await proxy.done;
    await mustMake("unblock-direct-access-to-sagemaker-role");
    await mustMake("remove-proxy-iptables-entries");
    await mustMake("revive-original-iptables-entry");
    const emptyTables = /^\*\w+\n(?::.*\n)*COMMIT\n/gm;
    expect((await rules()).replaceAll(emptyTables, "")).toBe(rulesAtFirst.replaceAll(emptyTables, ""));
    expect(await awsArn(node, alice)).toBe(INSTANCE);
    expect((await make("check-direct-access", alice)).exitCode).toBe(0);
  });
});
