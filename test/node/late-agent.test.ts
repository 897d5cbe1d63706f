import { expect, test } from "bun:test";
import { mustExec, startTestNode } from "../support/node.ts";
import { applyRules, eventually, sdkArn, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const ROOT = { user: "root" } as const;

/** As whom AssumeRole was asked for, one after the other. */
const signers = async (node: SimulatedNode) =>
  (await node.sts.log()).filter(({ action }) => action === "AssumeRole").map((entry) => entry.principalArn);

describeAsRoot("upstream: auto", () => {
  test("finds a HyperPod agent that comes after the proxy, as it may at boot", async () => {
    const node = await startTestNode({ kind: "hyperpod", ec2Session: true });
    try {
      await mustExec(node, ROOT, ["ip", "address", "delete", "169.254.0.2/32", "dev", "lo"]);
      await mustExec(node, ROOT, ["imdsproxy", "iptables", "remove-original"]);
      const proxy = await node.startProxy({ config: testConfig(node) });
      await eventually("it takes EC2's own service", () =>
        proxy.output().includes("http://169.254.169.254:80"),
      );
      // What the SDK keeps of EC2's credentials is good for hours.
      await eventually("STS is asked with EC2's credentials", async () => (await signers(node)).length > 0);
      expect(await signers(node)).toEqual([expect.stringMatching(/\/EC2$/)]);

      await node.agent?.clearLog();
      await mustExec(node, ROOT, ["ip", "address", "add", "169.254.0.2/32", "dev", "lo"]);
      await mustExec(node, ROOT, ["imdsproxy", "iptables", "restore-original"]);
      await eventually(
        "the proxy says so",
        () => proxy.output().includes("the upstream has changed"),
        90_000,
      );
      await applyRules(node);
      expect(await sdkArn(node, { user: "alice" })).toContain("assumed-role/ImdsProxyTestRole/alice@");
      expect((await node.agent?.log())?.length).toBeGreaterThan(0);
      expect((await signers(node)).at(-1)).toMatch(/\/SageMaker$/);
      await proxy.stop();
    } finally {
      await node.stop();
    }
  }, 240_000);
});
