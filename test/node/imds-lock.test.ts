import { afterAll, beforeAll, expect, test } from "bun:test";
import { curl, IMDS4, IMDS6, mustExec, TEST_ROLE } from "../support/node.ts";
import { applyRules, credentialsOf, eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/**
 * systemd's lock of the metadata address (`systemd.imds.network=locked`, systemd 261 and later) as systemd-networkd makes it of
 * 85-imds-early.network: a route of type prohibit, and a table for sockets with the mark 0x7FFF0815. systemd 262 makes both for IPv6
 * too. With systemd 262 itself the proxy is not tried yet.
 */
const TABLE = 0x7fff0815;
const LOCK = `
ip route add prohibit 169.254.169.254
ip route add 169.254.169.254 via 10.77.0.1 table ${TABLE}
ip rule add fwmark ${TABLE} lookup ${TABLE}
for one in all eth0; do echo 0 >/proc/sys/net/ipv4/conf/$one/rp_filter; done`;
const LOCK6 = `
ip -6 route add prohibit fd00:ec2::254
ip -6 route add fd00:ec2::254 via fd77::1 table ${TABLE}
ip -6 rule add fwmark ${TABLE} lookup ${TABLE}`;
const ROOT = { user: "root" };
const ALICE = { user: "alice" };
const LIST = `${IMDS4}/latest/meta-data/iam/security-credentials/`;

describeAsRoot("a node whose metadata address systemd has locked", () => {
  let node: SimulatedNode;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  /** What comes of a list of roles: its text, or curl's exit code (7: no connection). */
  const listed = async (who: { user: string }, ...more: string[]) => {
    const { status, exitCode, body } = await curl(node, who, LIST, more);
    return status === 200 ? body : exitCode;
  };

  beforeAll(async () => {
    ({ node } = await startProxiedNode({ kind: "ec2" }, {}, async (one) => {
      await mustExec(one, ROOT, ["sh", "-euc", LOCK]);
    }));
  });
  afterAll(() => node?.stop());

  test("alice has her role and its credentials", async () => {
    await eventually("alice has credentials", async () => (await credentialsOf(node, ALICE)).status === 200);
    expect(JSON.parse((await credentialsOf(node, ALICE)).body).Code).toBe("Success");
  });

  test("the lock stays what it was: root has no way, with the proxy as without", async () => {
    expect(await listed(ROOT)).toBe(7);
    expect(await shell("ip route show type prohibit")).toContain("169.254.169.254");
  });

  test("and alice none to the service itself: her sockets cannot have the mark, and a flush opens nothing", async () => {
    const marked = await node.exec({
      ...ALICE,
      argv: ["python3", "-c", `import socket; socket.socket().setsockopt(1, 36, ${TABLE})`],
    });
    expect(marked.stderr).toContain("Operation not permitted");
    await shell("for i in iptables ip6tables; do $i -F; $i -t nat -F; done");
    // Nothing answers her packets.
    expect(typeof (await listed(ALICE, "--connect-timeout", "2"))).toBe("number");
    await applyRules(node);
    expect(typeof (await listed(ALICE))).toBe("string");
  });

  test("unlocked again, root has the instance role and alice hers", async () => {
    await shell("ip route del prohibit 169.254.169.254");
    expect(await listed(ROOT)).toBe(node.roleName);
    await eventually("alice has credentials", async () => (await credentialsOf(node, ALICE)).status === 200);
  });

  test("setup says before it changes anything what the lock keeps from root, and that rp_filter keeps it from everybody", async () => {
    const said = async () => {
      const argv = ["/run/bin/imdsproxy", "setup", "--dry-run", "--role-arn", TEST_ROLE];
      const { stdout, stderr } = await node.exec({ ...ROOT, argv });
      return stdout + stderr;
    };
    expect(await said()).not.toContain("systemd.imds.network");
    await shell("ip route add prohibit 169.254.169.254");
    const locked = await said();
    expect(locked).toContain("warning: systemd.imds.network=locked: the kernel refuses root");
    expect(locked).not.toContain("rp_filter");
    await shell("echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter");
    expect(await said()).toContain("(net.ipv4.conf.eth0.rp_filter = 2)");
    const argv = ["/run/bin/imdsproxy", "setup", "--dry-run", "--json", "--role-arn", TEST_ROLE];
    const { dryRun, lines } = JSON.parse(await mustExec(node, ROOT, argv));
    expect({ dryRun, warned: lines.join("\n").includes("(net.ipv4.conf.eth0.rp_filter = 2)") }).toEqual({
      dryRun: true,
      warned: true,
    });
  });
});

describeAsRoot("a node whose IPv6 metadata address is locked as well, and is the upstream", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode({ kind: "ec2" }, { upstream: "[fd00:ec2::254]:80" }, async (one) => {
      await mustExec(one, ROOT, ["sh", "-euc", `${LOCK}\n${LOCK6}`]);
    }));
  });
  afterAll(() => node?.stop());

  test("root is refused, and alice has her role: the proxy's connection has the mark", async () => {
    expect((await curl(node, ROOT, `${IMDS6}/latest/meta-data/`)).exitCode).toBe(7);
    await eventually("alice has credentials", async () => (await credentialsOf(node, ALICE)).status === 200);
  });
});
