import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { FIRST_BOOT_LIMIT_MS, type Machine, until } from "./support/machine.ts";
import {
  addHammers,
  executableOf,
  forgetHammered,
  getsRole,
  hammered,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
  stateOf,
} from "./support/node.ts";

const OTHER_ROLE = "AnotherTestRole";
/**
 * What setup has done after so many milliseconds differs from machine to machine; together they meet every step.
 * IMDSPROXY_LONG=1 tries all of them, else every other.
 */
const moments = (all: readonly number[]) =>
  all.filter((_, index) => process.env["IMDSPROXY_LONG"] === "1" || index % 2 === 0);
const POWER_CUTS_MS = moments([30, 120, 200, 300, 400, 500, 650, 800, 1000, 1300]);

/** Whatever else vanishes while it looks is no matter. */
const LEFT_BEHIND = "find / -xdev -name '*imdsproxy-new*' -not -path '/proc/*' 2>/dev/null || true";

const leaksOf = async (node: Machine) =>
  Object.entries(await hammered(node)).map(([name, { leaks }]) => [name, leaks]);
const NO_LEAKS = [
  ["unit", 0],
  ["cron", 0],
  ["linger", 0],
];
const isActive = (node: Machine, unit: string) => async () =>
  (await node.run(`systemctl is-active ${unit}`)).code === 0;

describeAsRoot("a power cut in the middle of setup", () => {
  describeAsRoot("of the first installation", () => {
    for (const afterMs of moments([400, 150, 1000, 700])) {
      test(
        `after ${afterMs} ms: the node is as it was or as it should be, and setup again completes it`,
        async () => {
          const node = makeNode();
          try {
            await node.boot();
            const setup = node.run(SETUP);
            await Bun.sleep(afterMs);
            await node.powerCut();
            await setup;
            await node.boot();
            await until("the agent is there", async () => (await roleOf(node)) === INSTANCE_ROLE);
            const enabled = (
              await node.run("systemctl is-enabled imdsproxy-iptables imdsproxy-repair imdsproxy")
            ).stdout;
            if (enabled === "enabled\nenabled\nenabled\n") {
              await until("alice has her role", async () => (await roleOf(node, "alice")) === ROLE);
            } else if (enabled.startsWith("enabled\n")) {
              // systemctl enable makes its links one after the other: with some of them users are refused, until setup completes it.
              expect(await roleOf(node, "alice")).not.toBe(INSTANCE_ROLE);
            } else {
              expect(await node.ok("iptables-save | grep -c IMDSPROXY || true")).toBe("0\n");
            }
            const again = await node.run(SETUP);
            expect([again.code, again.stderr]).toEqual([0, ""]);
            expect(await roleOf(node, "alice")).toBe(ROLE);
            expect(await node.ok(LEFT_BEHIND)).toBe("");
          } finally {
            await node.destroy();
          }
        },
        FIRST_BOOT_LIMIT_MS,
      );
    }
  });

  describeAsRoot("of an upgrade", () => {
    const node = bootedMachine(
      () => {
        const node = makeNode({ agent: "early" });
        node.copyIn(executableOf("9.9.9"), "/root/imdsproxy-next");
        addHammers(node);
        return node;
      },
      async () => {
        await node.ok(SETUP);
        await forgetHammered(node);
      },
    );

    let nth = 0;
    for (const afterMs of POWER_CUTS_MS) {
      test(`after ${afterMs} ms: the old state or the new, never a mixture, never open`, async () => {
        // Back and forth, so that each finds the other version: one with its own role.
        const [executable, role] =
          nth++ % 2 === 0 ? ["/root/imdsproxy-next", OTHER_ROLE] : ["/root/imdsproxy", ROLE];
        const setup = node.run(`${executable} setup --role-arn arn:aws:iam::842413447717:role/${role}`);
        await Bun.sleep(afterMs);
        await node.powerCut();
        await setup;
        await node.boot();
        await until("the proxy runs", isActive(node, "imdsproxy"));
        await until("alice has a role", async () => /Role$/.test(await roleOf(node, "alice")));
        const isNext = (await node.ok("imdsproxy --version")).includes("9.9.9");
        expect(await roleOf(node, "alice")).toBe(isNext ? OTHER_ROLE : ROLE);
        expect(await leaksOf(node)).toEqual(NO_LEAKS);
        await getsRole(node, INSTANCE_ROLE);
        // Only what a next setup removes may be left.
        expect((await node.run("ls /etc/imdsproxy/.setup-journal.json")).code).not.toBe(0);
      });
    }

    test("then setup completes, and nothing of the interrupted ones is left", async () => {
      const ran = await node.run("/root/imdsproxy setup");
      expect([ran.code, ran.stderr]).toEqual([0, ""]);
      expect(await node.ok(`${LEFT_BEHIND}; ls /run/systemd/system`)).toBe("");
    });
  });
});

describeAsRoot("two setups at the same time", () => {
  test(
    "both succeed, and the node is as after one",
    async () => {
      const node = makeNode();
      try {
        await node.boot();
        // The first waits for STS with the lock in its hand until the others have come.
        await node.ok("systemctl stop sts");
        const numbers = [0, 1, 2];
        const saying = async (words: string) =>
          Number(await node.ok(`cat /tmp/setup-* | grep -c '${words}' || true`));
        const started = numbers.map((n) => node.run(`${SETUP} >/tmp/setup-${n}`));
        await until(
          "two wait for the third",
          async () => (await saying("another setup is running")) === 2 && (await saying("^waiting, ")) > 0,
        );
        await node.ok("systemctl start sts");
        for (const { code, stderr } of await Promise.all(started)) expect([code, stderr]).toEqual([0, ""]);
        expect(await saying("another setup is running")).toBe(2);
        expect(await saying("move into place")).toBe(1);
        expect(await roleOf(node, "alice")).toBe(ROLE);
      } finally {
        await node.destroy();
      }
    },
    FIRST_BOOT_LIMIT_MS,
  );
});

describeAsRoot("a full disk", () => {
  const node = bootedMachine(() => makeNode({ diskMiB: 600 }));

  test("setup says so in one line, and changes nothing", async () => {
    const before = await stateOf(node);
    await node.run("dd if=/dev/zero of=/var/tmp/filler bs=1M 2>/dev/null; truncate -s -20M /var/tmp/filler");
    const ran = await node.run(SETUP);
    expect(ran.code).toBe(1);
    expect(ran.stderr.trim().split("\n")).toHaveLength(1);
    expect(ran.stderr).toContain("MiB are free below /usr/local/bin");
    expect(await stateOf(node)).toBe(before);
  });

  test("a disk that fills up while setup writes: nothing is changed either", async () => {
    const before = await stateOf(node);
    // Room enough when it looks, and little more, taken at one stroke while it copies.
    await node.ok("truncate -s -110M /var/tmp/filler; sync");
    // It stops setup for that, and has come too late where setup has its journal by then: then both try once more.
    const thief = `until ls /usr/local/bin/*-new; do [ ! -e /tmp/over ] || exit 1; done 2>/dev/null
pkill -STOP -f '^/root/imdsproxy setup'
if ls /usr/local/bin/*-new && ! ls /etc/imdsproxy/.setup-journal*; then
  for size in 128 64 32 16 8 4 2 1; do fallocate -l \${size}M /var/tmp/filler-$size; done
  dd if=/dev/zero of=/var/tmp/filler-0 bs=4k
  code=0
fi
pkill -CONT -f '^/root/imdsproxy setup'
exit \${code:-1}`;
    for (;;) {
      const stealing = node.run(thief);
      // Not as nsenter's own child, with which nsenter would stop, and nobody wakes it.
      const ran = await node.run(`${SETUP} & wait $!`);
      await node.ok("touch /tmp/over");
      const isLate = (await stealing).code !== 0;
      if (!isLate) {
        expect(ran.code).toBe(1);
        break;
      }
      await node.ok("rm /tmp/over && /root/imdsproxy service uninstall");
    }
    expect(await stateOf(node)).toBe(before);
    await node.ok("rm /var/tmp/filler*");
  });

  test("on a running node: killed units come back, and rules are repaired", async () => {
    const ran = await node.run(SETUP);
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    await node.run("dd if=/dev/zero of=/var/tmp/filler bs=1M 2>/dev/null");
    await node.run(
      "systemctl kill --signal KILL imdsproxy imdsproxy-repair; iptables -w -t filter -F IMDSPROXY",
    );
    await until(
      "both are back",
      async () => (await isActive(node, "imdsproxy")()) && (await isActive(node, "imdsproxy-repair")()),
    );
    await until("the block is back", async () => (await node.ok("iptables-save")).includes("9081 -j REJECT"));
    // Right after the kill, systemd may still call it active.
    await getsRole(node, ROLE, "alice");
  });
});
