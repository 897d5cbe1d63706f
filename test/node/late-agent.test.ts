import { expect, test } from "bun:test";
import { mustExec, startTestNode } from "../support/node.ts";
import { applyRules, eventually, sdkArn, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

const ROOT = { user: "root" } as const;

describeAsRoot("upstream: auto", () => {
  test("finds a HyperPod agent that comes after the proxy, as it may at boot", async () => {
    const node = await startTestNode({ kind: "hyperpod" });
    try {
      await mustExec(node, ROOT, ["ip", "address", "delete", "169.254.0.2/32", "dev", "lo"]);
      await mustExec(node, ROOT, ["imdsproxy", "iptables", "remove-original"]);
      const proxy = await node.startProxy({ config: testConfig(node) });
      await eventually("it takes EC2's own service", () =>
        proxy.output().includes("http://169.254.169.254:80"),
      );

      await node.agent?.clearLog();
      await mustExec(node, ROOT, ["ip", "address", "add", "169.254.0.2/32", "dev", "lo"]);
      await mustExec(node, ROOT, ["imdsproxy", "iptables", "restore-original"]);
      await eventually(
        "the proxy says so",
        () => proxy.output().includes("the upstream is another now"),
        30_000,
      );
      await applyRules(node);
      expect(await sdkArn(node, { user: "alice" })).toContain("assumed-role/ImdsProxyTestRole/alice@");
      expect((await node.agent?.log())?.length).toBeGreaterThan(0);
      await proxy.stop();
    } finally {
      await node.stop();
    }
  }, 60_000);
});
