import { afterAll, beforeAll, expect, test } from "bun:test";
import { flushBut } from "../attack/support/attack.ts";
import { mustExec } from "../support/node.ts";
import { eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

/**
 * systemd-networkd takes away routing rules that are not in its files (networkd.conf(5), ManageForeignRoutingPolicyRules=), each time
 * it takes up an interface. Those of protocol `kernel`, as the second wall's are, it leaves.
 */

const ROOT = { user: "root" } as const;
const FLUSH = flushBut();
/** A read-only /sys is how it sees that no udev is there to be waited for. Its directories are what its unit makes. */
const PREPARE = `
mount -t sysfs -o ro sysfs /sys
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
printf '[Match]\\nName=late*\\n[Network]\\nAddress=192.0.2.1/24\\nLinkLocalAddressing=no\\n' >/run/systemd/network/10-late.network
`;

describeAsRoot("systemd-networkd", () => {
  let node: SimulatedNode;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line]);
  const wall = () => shell("imdsproxy iptables list");
  /** What alice gets over each way, in so many seconds; where packets are dropped, she waits for all of them. */
  const asked = async (seconds: number) =>
    Promise.all(
      ["http://169.254.169.254", "http://169.254.0.2:9081"].map(
        async (base) =>
          (
            await node.exec({
              user: "alice",
              argv: [
                "curl",
                "-s",
                "-m",
                String(seconds),
                `${base}/latest/meta-data/iam/security-credentials/`,
              ],
            })
          ).stdout,
      ),
    );

  beforeAll(async () => {
    ({ node } = await startProxiedNode({}, { containers: "reject" }));
    await shell(PREPARE);
  });
  afterAll(() => node?.stop());

  for (const start of ["started", "started again"]) {
    test(`${start}: takes an administrator's rules away, and leaves the second wall`, async () => {
      const before = await wall();
      const running = node.spawn({
        ...ROOT,
        argv: ["/lib/systemd/systemd-networkd"],
        // It says what it does, and that it has seen all that is there.
        env: { SYSTEMD_LOG_LEVEL: "info", SYSTEMD_LOG_TARGET: "console" },
        timeoutMs: 0,
      });
      await eventually("it has read what is there", () => running.stderr().includes("Enumeration completed"));
      await shell(
        "ip rule add pref 100 fwmark 7 lookup 100 protocol static; ip -6 rule add pref 100 fwmark 7 lookup 100",
      );
      await shell("ip link add late0 type veth peer name peer0; ip link set peer0 up");
      await eventually("it has taken up the interface, and the administrator's rules are gone", async () => {
        const rules = await shell("ip rule; ip -6 rule; ip address show late0");
        return rules.includes("192.0.2.1") && !rules.includes("fwmark");
      });
      await shell(FLUSH);
      expect(await asked(5)).toEqual(["", ""]);
      await shell("imdsproxy iptables apply");
      running.kill("SIGTERM");
      await running.done;
      await shell("ip link del late0");
      await shell("imdsproxy iptables apply");
      expect(await wall()).toBe(before);
      expect(await asked(20)).toEqual(["ImdsProxyTestRole", ""]);
    });
  }
});
