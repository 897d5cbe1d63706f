import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { makeEc2Node, userData } from "./support/ec2.ts";
import { until } from "./support/machine.ts";
import {
  addHammers,
  forgetHammered,
  getsRole,
  hammered,
  hammeredEnough,
  INSTANCE_ROLE,
  ROLE,
  ROLE_ARN,
  roleOf,
  STS,
  sourceFile,
} from "./support/node.ts";

/**
 * cloud-init's own order (cloud-init.service of 22.4, as Debian and Ubuntu have it): the network stage, in which bootcmd runs, comes
 * after the network and before sysinit.target, sshd and the users' sessions; the final stage after multi-user.target.
 */
const NETWORK_STAGE = `[Unit]
DefaultDependencies=no
After=node-network.service hyperpod-agent.service
Before=network-online.target sshd.service ssh.service sysinit.target systemd-user-sessions.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /root/bootcmd
`;
const FINAL_STAGE = `[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nTimeoutSec=0\nExecStart=/bin/sh /root/runcmd\n`;

/** As aws-parallelcluster-cookbook's imds-access.sh does it, for both families. */
const IMDS_ACCESS = `#!/bin/bash
set -e
for pair in iptables,169.254.169.254 ip6tables,fd00:ec2::254; do
  tool=\${pair%%,*} to=\${pair#*,}
  $tool -w 10 -N PARALLELCLUSTER_IMDS 2>/dev/null || true
  while $tool -w 10 -D OUTPUT -d $to -j PARALLELCLUSTER_IMDS 2>/dev/null; do :; done
  $tool -w 10 -A OUTPUT -d $to -j PARALLELCLUSTER_IMDS
  if [ "$1" = --flush ]; then $tool -w 10 -F PARALLELCLUSTER_IMDS; exit 0; fi
  for user in \${2//,/ }; do $tool -w 10 -A PARALLELCLUSTER_IMDS -d $to -m owner --uid-owner $user -j ACCEPT; done
  while $tool -w 10 -D PARALLELCLUSTER_IMDS -d $to -j REJECT 2>/dev/null; do :; done
  $tool -w 10 -A PARALLELCLUSTER_IMDS -d $to -j REJECT
done
`;
const RULES_FILES = "/etc/parallelcluster/sysconfig";
/** The cookbook's service parallelcluster-iptables: what was saved at the node's configuration comes back at each boot. */
const RESTORE = `[Unit]
After=network.target
ConditionPathExists=${RULES_FILES}/iptables.rules
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'iptables-restore -w 10 <${RULES_FILES}/iptables.rules; ip6tables-restore -w 10 <${RULES_FILES}/ip6tables.rules'
`;

const MORE = `--sts-endpoint ${STS}`;

describeAsRoot("a plain EC2 node", () => {
  const node = bootedMachine(() => {
    const node = makeEc2Node();
    node.write("srv/parallelcluster.sh", sourceFile("scripts/lifecycle/parallelcluster.sh"));
    // The AWS CLI, which copies one object.
    node.write(
      "usr/bin/aws",
      `#!/bin/sh\nfor to; do from=\${last-}; last=$to; done\ncp "/srv/\${from##*/}" "$to"\n`,
      0o755,
    );
    node.write("opt/imds-access.sh", IMDS_ACCESS);

    const { bootcmd, runcmd } = userData();
    node.write("root/bootcmd", bootcmd);
    node.write("root/user-data", runcmd);
    for (const [name, text, target] of [
      ["cloud-init.service", NETWORK_STAGE, "sysinit.target"],
      ["parallelcluster-iptables.service", RESTORE, "multi-user.target"],
    ] as const) {
      node.write(`etc/systemd/system/${name}`, text);
      node.enable(name, target);
    }
    // Started by the test.
    node.write("etc/systemd/system/cloud-final.service", FINAL_STAGE);
    addHammers(node);
    return node;
  });

  /** The final stage, with a digest that install.sh asks for besides. */
  const finalStage = (digest: string) =>
    node.run(
      `echo "export IMDSPROXY_SHA256=${digest}" | cat - /root/user-data >/root/runcmd; systemctl start cloud-final`,
    );

  test("by cloud-init: IMDS is closed to users before the first of them can ask, also where the installation fails, until the rules are there", async () => {
    await hammeredEnough(node, 5);
    expect((await finalStage("0".repeat(64))).code).not.toBe(0);
    await until("the journal says why", async () =>
      (await node.ok("journalctl -u cloud-final -o cat --no-pager")).includes("nothing was installed"),
    );
    await getsRole(node, INSTANCE_ROLE);
    await node.reboot();
    await hammeredEnough(node, 5);
    await getsRole(node, INSTANCE_ROLE);
    expect(await roleOf(node, "alice")).toMatch(/connect/i);

    expect((await finalStage("$(sha256sum </srv/imdsproxy | cut -d ' ' -f 1)")).code).toBe(0);
    expect(await roleOf(node, "alice")).toBe(ROLE);
    // At the next boots the first unit of imdsproxy's own closes the node, and its rules open it: not this.
    await node.ok("sh /root/bootcmd");
    expect(await roleOf(node, "alice")).toBe(ROLE);
    for (const { leaks } of Object.values(await hammered(node))) expect(leaks).toBe(0);
  });

  test("by ParallelCluster: a head node's own firewall keeps the proxy out until OnNodeConfigured, is warned of, and the boot brings both back", async () => {
    await node.ok("imdsproxy service uninstall");
    await node.ok(`
        mkdir -p /etc/parallelcluster
        groupadd --system --gid 400 pcluster-admin
        useradd --system --uid 400 --gid 400 --home-dir /home/pcluster-admin --shell /bin/bash pcluster-admin
        chmod 000 /etc/shadow`);
    await until("alice's attackers show that it is open", async () =>
      Object.values(await hammered(node)).every(({ leaks }) => leaks > 0),
    );
    const started = await node.run(
      `sh /srv/parallelcluster.sh s3://bucket/imdsproxy/ --role-arn ${ROLE_ARN} ${MORE}`,
    );
    expect([started.code, started.stderr]).toEqual([0, ""]);
    expect(started.stdout).toContain("platform: parallelcluster (/etc/parallelcluster is there)");
    expect(started.stdout).toContain("exempt: pcluster-admin (uid 400)");
    expect(started.stdout).toMatch(/exempt once their packages make them: .*dcv/);
    expect(started.stdout).toMatch(/^ok {3}pcluster-admin, who is exempt, keeps the instance role/m);
    await forgetHammered(node);

    // The configuration of the node, by the cookbook.
    await node.ok(`
        mkdir -p /opt/parallelcluster/scripts/imds
        mv /opt/imds-access.sh /opt/parallelcluster/scripts/imds/
        bash /opt/parallelcluster/scripts/imds/imds-access.sh --flush
        bash /opt/parallelcluster/scripts/imds/imds-access.sh --allow root,pcluster-admin,bob
        mkdir -p ${RULES_FILES}
        iptables-save >${RULES_FILES}/iptables.rules; ip6tables-save >${RULES_FILES}/ip6tables.rules`);
    const warned = await node.run("imdsproxy service status");
    expect(warned.stdout + warned.stderr).toContain("imds-access.sh --allow imdsproxy");

    const configured = await node.run("sh /srv/parallelcluster.sh configured");
    expect([configured.code, configured.stderr]).toEqual([0, ""]);
    expect(configured.stdout).toMatch(/^ok {3}pcluster-admin, who is exempt, keeps the instance role/m);
    const status = await node.run("imdsproxy service status");
    expect([status.code, status.stdout.includes("PARALLELCLUSTER_IMDS")]).toEqual([0, false]);

    await node.reboot();
    await until(
      "the saved rules are back",
      async () => (await node.run("systemctl is-active parallelcluster-iptables")).code === 0,
    );
    await getsRole(node, INSTANCE_ROLE, "pcluster-admin");
    // Whom ParallelCluster's own list allows is a user to us.
    await getsRole(node, ROLE, "bob");
    await getsRole(node, ROLE, "alice");
    await hammeredEnough(node, 5);
    for (const { leaks } of Object.values(await hammered(node))) expect(leaks).toBe(0);
    await until(
      "nothing is wrong with the service",
      async () => (await node.run("imdsproxy service status")).code === 0,
    );

    // A package that comes later, and somebody who only has such an account's name.
    await node.ok("useradd --system --shell /usr/sbin/nologin dcvextauth; useradd --shell /bin/bash cwagent");
    await until("the watch has taken the account up", async () =>
      (await node.ok("journalctl -u imdsproxy-repair -o cat --no-pager")).includes("exempt: dcvextauth"),
    );
    // The way of a daemon that ParallelCluster's own list has not.
    await node.ok("bash /opt/parallelcluster/scripts/imds/imds-access.sh --allow dcvextauth");
    await getsRole(node, INSTANCE_ROLE, "dcvextauth");
    expect(await roleOf(node, "cwagent")).toBe(ROLE);
  });
});
