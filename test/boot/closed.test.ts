import { afterAll, beforeAll, expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { type Machine, until } from "./support/machine.ts";
import { addHammers, hammered, INSTANCE_ROLE, makeNode, ROLE, roleOf, SETUP } from "./support/node.ts";

const MINUTES = 60_000;
/** In memory: alice's attackers write there, whatever the disk is. */
const LOGS = "/dev/shm";

/**
 * What users do to the disk, or what befalls the node, before a boot. In each the attackers run from the first moment.
 * Where `serves`, the boot brings the rules and the proxy in spite of it, and alice has her role; else the node is closed:
 * alice is refused, and root has the instance role.
 */
interface Damage {
  readonly what: string;
  readonly as?: string;
  readonly damage: string;
  /** The standard input of `damage`. */
  readonly input?: string;
  /** A command that succeeds while the damage is there. */
  readonly holds: string;
  readonly repair: string;
  readonly serves: boolean;
}

/** Takes every inode of a file system, in a directory of hers. */
const takeInodes = (directory: string) =>
  `mkdir ${directory}/fill; python3 -c 'for i in range(10**6): open("${directory}/fill/%d" % i, "x")' 2>&1 | grep 'No space left'`;
const takeBlocks = (directory: string) =>
  `mkdir -p ${directory}/fill; for size in 1M 4k 512; do dd if=/dev/zero bs=$size of=${directory}/fill/$size 2>/dev/null; done; ! touch ${directory}/fill/x || ! dd if=/dev/zero bs=64k count=1 of=${directory}/fill/x 2>/dev/null`;

/** A unit that does something to the node's file systems before the rules' unit starts. */
const atBoot = (script: string) => ({
  damage: "cat > /etc/systemd/system/damage.service; systemctl -q enable damage",
  input: `[Unit]
DefaultDependencies=no
Before=local-fs.target imdsproxy-iptables.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '${script.replaceAll("$", "$$$$")}'
[Install]
WantedBy=sysinit.target
`,
});
const NOT_AT_BOOT = "systemctl -q disable damage; rm /etc/systemd/system/damage.service";

const DAMAGES: readonly Damage[] = [
  {
    what: "alice has every inode of the disk",
    as: "alice",
    damage: takeInodes("/home/alice"),
    holds: "! touch /tmp/x /var/tmp/x",
    repair: "rm -r /home/alice/fill",
    serves: true,
  },
  {
    what: "alice has every block of the disk",
    as: "alice",
    damage: takeBlocks("/home/alice"),
    holds: "! dd if=/dev/zero of=/tmp/x bs=64k count=1 2>/dev/null; e=$?; rm /tmp/x; exit $e",
    repair: "rm -r /home/alice/fill",
    serves: true,
  },
  {
    what: "/var is read-only",
    ...atBoot("mount --bind /var /var && mount -o remount,bind,ro /var"),
    holds: "! touch /var/lib/x",
    repair: NOT_AT_BOOT,
    serves: true,
  },
  {
    what: "/var is gone",
    ...atBoot("mount -t tmpfs -o ro tmpfs /var"),
    holds: "! ls /var/lib",
    repair: NOT_AT_BOOT,
    serves: false,
  },
  {
    what: "/run is full before the journal has its sockets there",
    ...atBoot(
      "mount -o remount,nr_inodes=300,size=1m /run; i=0; while touch /run/fill-$i; do i=$((i+1)); done; cat /dev/zero >/run/fill-0; true",
    ),
    holds: "! touch /run/x",
    repair: NOT_AT_BOOT,
    serves: false,
  },
  {
    what: "the executable is gone",
    damage: "mv /usr/local/bin/imdsproxy /root/away",
    holds: "! test -e /usr/local/bin/imdsproxy",
    repair: "mv /root/away /usr/local/bin/imdsproxy",
    serves: false,
  },
  {
    what: "the executable crashes at once",
    damage:
      "mv /usr/local/bin/imdsproxy /root/away; printf '#!/bin/sh\\nkill -SEGV $$\\n' > /usr/local/bin/imdsproxy; chmod 755 /usr/local/bin/imdsproxy",
    holds: "! imdsproxy --version",
    repair: "mv /root/away /usr/local/bin/imdsproxy",
    serves: false,
  },
];

describeAsRoot("a boot that cannot bring the rules", () => {
  let node: Machine;

  beforeAll(async () => {
    node = makeNode({ agent: "early", ext4: { mib: 700, inodes: 3000 } });
    addHammers(node, LOGS, ["lo", "eth0"]);
    for (const unit of ["hyperpod-agent", "sts"]) {
      node.write(
        `etc/systemd/system/${unit}.service.d/elsewhere.conf`,
        "[Service]\nEnvironment=STAND_IN_DIRECTORY=/srv/stand-in\n",
      );
    }
    await node.boot();
    await until("the attackers work", async () => (await hammered(node, LOGS))["cron"]?.leaks !== 0);
    await node.ok(SETUP);
  }, 5 * MINUTES);
  afterAll(() => node?.destroy(), MINUTES);

  /** What root gets of the agent itself: the entry of iptables that leads there may be missing. */
  const rootHas = () =>
    node.ok("curl -sS http://169.254.0.2:9081/latest/meta-data/iam/security-credentials/");

  async function closed(): Promise<void> {
    await until(
      "the attackers have tried",
      async () => ((await hammered(node, LOGS))["unit"]?.tries ?? 0) > 100,
    );
    for (const [name, { leaks }] of Object.entries(await hammered(node, LOGS))) {
      expect([name, leaks]).toEqual([name, 0]);
    }
    expect(await rootHas()).toBe(INSTANCE_ROLE);
  }

  for (const { what, as, damage, input, holds, repair, serves } of DAMAGES) {
    test(
      `${what}: ${serves ? "alice has her role, as ever" : "closed"}, and the boot goes on`,
      async () => {
        await node.ok(damage, {
          ...(as === undefined ? {} : { as }),
          ...(input === undefined ? {} : { input }),
        });
        await node.powerCut();
        await node.boot();
        await node.ok(holds);
        await closed();
        if (serves) {
          await until("alice has her role", async () => (await roleOf(node, "alice")) === ROLE);
          for (const unit of ["imdsproxy-closed", "imdsproxy-iptables", "imdsproxy-repair", "imdsproxy"]) {
            await node.ok(`systemctl restart ${unit}`);
          }
          await until("alice has her role", async () => (await roleOf(node, "alice")) === ROLE);
        } else expect(await roleOf(node, "alice")).toContain("curl: (7)");
        await closed();
        await node.ok(repair);
      },
      2 * MINUTES,
    );
  }
});
