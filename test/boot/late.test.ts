import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine, expectNoLeaks } from "./support/booted.ts";
import {
  addHammers,
  credentialsOf,
  forgetHammered,
  getsCredentials,
  getsRole,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
} from "./support/node.ts";

/** Every kind of node that the systems to suit make: where IMDS is, which iptables, which cgroups, which HyperPod units. */
const KINDS = [
  { what: "HyperPod, iptables-nft, cgroup v2", kind: "hyperpod", cgroups: "v2", iptables: "nft" },
  { what: "HyperPod, iptables-legacy, cgroup v1", kind: "hyperpod", cgroups: "v1", iptables: "legacy" },
  { what: "plain EC2, iptables-nft, cgroup v1", kind: "ec2", cgroups: "v1", iptables: "nft" },
  { what: "plain EC2, iptables-legacy, cgroup v2", kind: "ec2", cgroups: "v2", iptables: "legacy" },
] as const;

for (const { what, kind, cgroups, iptables } of KINDS) {
  describeAsRoot(`a node of ${what}`, () => {
    const node = bootedMachine(
      () => {
        const node = makeNode({ kind, cgroups });
        for (const name of ["iptables", "ip6tables"]) {
          node.link(`/usr/sbin/${name}-${iptables}`, `etc/alternatives/${name}`);
          for (const part of ["save", "restore"]) {
            node.link(`/usr/sbin/${name}-${iptables}-${part}`, `etc/alternatives/${name}-${part}`);
          }
        }
        if (kind === "hyperpod") {
          // HyperPod's own unit that waits for the network; the rules must not depend on it, nor be late because of it.
          node.write(
            "etc/systemd/system/sagemaker-cluster-after-network-online.service",
            "[Unit]\nAfter=network-online.target\nWants=network-online.target\n[Service]\nType=oneshot\n" +
              "ExecStart=/bin/sleep 1\n[Install]\nWantedBy=multi-user.target\n",
          );
          node.enable("sagemaker-cluster-after-network-online.service");
        }
        addHammers(node);
        return node;
      },
      async () => {
        expect(await node.ok("iptables --version")).toContain(iptables === "nft" ? "nf_tables" : "legacy");
      },
    );

    test("setup verifies, and the boot after it is closed from the first moment", async () => {
      const ran = await node.run(SETUP);
      expect([ran.code, ran.stderr]).toEqual([0, ""]);
      await forgetHammered(node);
      await node.reboot();
      await getsRole(node, ROLE, "alice");
      await getsRole(node, INSTANCE_ROLE);
      await Bun.sleep(3000);
      await expectNoLeaks(node, 21);
    });

    test("uninstall leaves no rule of ours", async () => {
      await node.ok("imdsproxy service uninstall");
      expect(await node.ok("{ iptables-save; ip6tables-save; } | grep -c IMDSPROXY || true")).toBe("0\n");
    });
  });
}

describeAsRoot("what is absent at boot and comes later", () => {
  const node = bootedMachine(
    () => {
      const node = makeNode();
      addHammers(node);
      return node;
    },
    async () => {
      await node.ok(SETUP);
    },
  );

  for (const unit of ["hyperpod-agent", "sts"]) {
    test(`without ${unit} at boot nobody gets the instance role; once it is there, alice gets hers`, async () => {
      await node.ok(`systemctl disable ${unit}`);
      await forgetHammered(node);
      await node.reboot();
      expect(await node.ok("systemctl is-active imdsproxy imdsproxy-repair")).toBe("active\nactive\n");
      await Bun.sleep(2000);
      expect(await credentialsOf(node, ROLE, "alice")).not.toContain("AccessKeyId");
      await node.ok(`systemctl enable --now ${unit}`);
      await getsCredentials(node, ROLE, "alice");
      expect(await roleOf(node)).toBe(INSTANCE_ROLE);
      await expectNoLeaks(node, 21);
    });
  }
});
