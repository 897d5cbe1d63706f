import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mustExec, startTestNode } from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/** The node's routing before `apply` and after `remove`, as ip(8) lists it: the same, byte for byte. */

const ROOT = { user: "root" } as const;
const CONFIGURATIONS = {
  "HyperPod's agent": {},
  "containers refused": { containers: "reject" },
  "another upstream on this node": { upstream: "http://10.77.0.2:8080", containers: "proxy" },
};

describeAsRoot("what remove leaves of routing", () => {
  let node: SimulatedNode;
  let before = "";
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  const routing = () =>
    shell(
      "for f in -4 -6; do echo $f; ip -d $f rule show; ip -d $f route show table all; done; ip -d -o link show; ip -o address show",
    ).then((text) => text.replaceAll(/ (valid_lft|preferred_lft|expires) \S+/g, ""));
  const configure = (config: object) => node.write("/etc/imdsproxy/config.yaml", JSON.stringify(config));

  beforeAll(async () => {
    node = await startTestNode();
    // An administrator's own, which stay as they are; the link-local address and its routes come a moment after the interface.
    await shell(`
      ip rule add pref 100 fwmark 7 lookup 100
      ip -6 rule add pref 100 fwmark 7 lookup 100
      ip route add 192.0.2.0/24 dev eth0 table 100
      while ip -6 address show tentative | grep -q .; do sleep 0.05; done
    `);
    before = await routing();
    expect(before).toContain("192.0.2.0/24");
  });
  afterEach(async () => {
    await shell("imdsproxy iptables remove");
    expect(await routing()).toBe(before);
  });
  afterAll(() => node?.stop());

  for (const [name, config] of Object.entries(CONFIGURATIONS)) {
    test(`is what was there before apply: ${name}`, async () => {
      configure(config);
      await shell("imdsproxy iptables apply");
      expect(await routing()).not.toBe(before);
    });
  }
  test("also when one configuration was applied after another", async () => {
    for (const config of [...Object.values(CONFIGURATIONS), {}]) {
      configure(config);
      await shell("imdsproxy iptables apply");
    }
  });
  test("and when the wall came and went by itself", async () => {
    configure({ containers: "reject" });
    await shell("imdsproxy iptables block-direct");
    await shell("imdsproxy iptables unblock-direct");
    expect(await routing()).toBe(before);
  });
  for (const rules of [6, 12, 20]) {
    test(`and when apply was killed with ${rules} rules there`, async () => {
      configure({ containers: "reject" });
      await shell(`
        imdsproxy iptables apply >/dev/null 2>&1 & p=$!
        while kill -0 $p && [ $(ip rule | wc -l) -lt ${rules} ]; do :; done 2>/dev/null
        kill -9 $p 2>/dev/null || :
        wait $p || :
        # What it had started goes on to its end.
        flock /run/imdsproxy-iptables.lock true
      `);
    });
  }
});
