import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { bootedMachine } from "./support/booted.ts";
import { makeEc2Node, userData } from "./support/ec2.ts";
import { bootTree, LIMIT_MS, until } from "./support/machine.ts";
import { addHammers, getsRole, hammered, hammeredEnough, INSTANCE_ROLE, ROLE } from "./support/node.ts";

/**
 * scripts/lifecycle/user-data.yaml by cloud-init itself, with the stages that its own units make. It runs when asked for, on a tree
 * that has cloud-init, which build-tree.sh's has not: `debootstrap --include=…,cloud-init` (trixie's needs python3-cffi-backend
 * named as well), with the users alice and bob, and an empty /etc/machine-id and /etc/fstab.
 *
 *   IMDSPROXY_BOOT_TREE=TREE bun test --timeout=600000 ./test/boot/cloud-init.ts
 */
const SEED = "var/lib/cloud/seed/nocloud";

describe("user data by cloud-init itself", () => {
  const node = bootedMachine(() => {
    if (!existsSync(`${bootTree()}/usr/bin/cloud-init`))
      throw new Error(`${bootTree()} has no cloud-init: IMDSPROXY_BOOT_TREE must name a tree that has it`);
    const node = makeEc2Node();
    node.write(`${SEED}/meta-data`, "instance-id: i-first\n");
    node.write(`${SEED}/user-data`, userData().text.replace("sha256sum --check", "false --check"));
    // Its generator looks for a hypervisor's data sources, of which a container has none.
    node.write(
      "etc/cloud/cloud.cfg.d/90-test.cfg",
      "datasource_list: [NoCloud]\nnetwork: { config: disabled }\nlocale: false\n",
    );
    node.write("etc/cloud/ds-identify.cfg", "policy: enabled\n");
    addHammers(node);
    return node;
  });

  const ended = async (): Promise<string> => {
    await until("cloud-init has ended", async () =>
      /status: (?:done|error)/.test((await node.run("cloud-init status --wait")).stdout),
    );
    return (await node.run("cloud-init status --long")).stdout;
  };
  const leaks = async () =>
    Object.values(await hammered(node))
      .map(({ leaks }) => leaks)
      .join();

  test(
    "closes IMDS to users before the first of them can ask, at each boot while the installation fails, and then installs",
    async () => {
      console.log((await node.ok("cloud-init --version")).trim());
      expect(await ended()).toContain("status: error");
      await hammeredEnough(node, 5);
      await getsRole(node, INSTANCE_ROLE);
      expect(await leaks()).toBe("0,0,0");

      await node.reboot();
      await ended();
      await hammeredEnough(node, 5);
      await getsRole(node, INSTANCE_ROLE);
      expect(await leaks()).toBe("0,0,0");

      // As another instance's: with user data that works.
      const sum = (await node.ok("sha256sum </srv/imdsproxy")).slice(0, 64);
      // The release is served by http here, for which install.sh wants a digest.
      const input = userData().text.replace(/^( +)REGION=.*$/m, `$&\n$1export IMDSPROXY_SHA256=${sum}`);
      await node.ok(`cat >/${SEED}/user-data`, { input });
      await node.ok(`echo 'instance-id: i-second' >/${SEED}/meta-data`);
      await node.reboot();
      const status = await ended();
      if (!status.includes("status: done"))
        throw new Error(`${status}${await node.ok("tail -n 40 /var/log/cloud-init-output.log")}`);
      await getsRole(node, ROLE, "alice");
      expect(await leaks()).toBe("0,0,0");

      await node.reboot();
      expect(await ended()).toContain("status: done");
      await getsRole(node, ROLE, "alice");
      await getsRole(node, INSTANCE_ROLE);
      expect(await leaks()).toBe("0,0,0");
    },
    2 * LIMIT_MS,
  );
});
