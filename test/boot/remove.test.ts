import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import { INSTANCE_ROLE, makeNode, ROLE, RULES, roleOf, SETUP, stateOf } from "./support/node.ts";

describeAsRoot("taking it away", () => {
  const node = bootedMachine(
    () => makeNode(),
    async () => {
      before = await stateOf(node);
    },
  );
  let before: string;

  const rules = () => node.ok(RULES);

  test("disable gives the node its firewall back, and the boot after it finds it so", async () => {
    const wanted = await rules();
    await node.ok(SETUP);
    expect(await rules()).not.toBe(wanted);
    expect((await node.run("imdsproxy service status")).code).toBe(0);
    await node.ok("imdsproxy service disable");
    expect(await rules()).toBe(wanted);
    expect(await roleOf(node, "alice")).toBe(INSTANCE_ROLE);
    expect((await node.run("imdsproxy service status")).code).toBe(1);
    await node.reboot();
    await until("the agent is there", async () => (await roleOf(node)) === INSTANCE_ROLE);
    expect(await roleOf(node, "alice")).toBe(INSTANCE_ROLE);
    expect(await node.ok("iptables-save | grep -c IMDSPROXY || true")).toBe("0\n");
  });

  test("enable brings it back; both can be repeated", async () => {
    for (const command of ["enable", "enable", "disable", "disable", "enable"]) {
      const ran = await node.run(`imdsproxy service ${command}`);
      expect([command, ran.code, ran.stderr]).toEqual([command, 0, ""]);
    }
    expect(await roleOf(node, "alice")).toBe(ROLE);
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
  });

  test("uninstall --keep-state keeps the configuration and the key of the tokens, as root's", async () => {
    // Whom it has served the proxy writes down anew when it stops, and once it runs again: to a draft (.new), which it renames.
    const kept =
      "find /var/lib/imdsproxy -type f -not -name '*.new' | sort; sha256sum /var/lib/imdsproxy/token.key";
    const key = await node.ok(kept);
    const config = await node.ok("cat /etc/imdsproxy/config.yaml");
    await node.ok("imdsproxy service uninstall --keep-state");
    expect(await node.ok(kept)).toBe(key);
    expect(await node.ok("find /var/lib/imdsproxy /etc/imdsproxy -not -user root")).toBe("");
    expect((await node.run("getent passwd imdsproxy")).code).toBe(2);
    // What was kept is enough for the next setup, and tokens that were given out before are good.
    const ran = await node.run("/root/imdsproxy setup");
    expect([ran.code, ran.stderr]).toEqual([0, ""]);
    expect(await node.ok("cat /etc/imdsproxy/config.yaml")).toBe(config);
    expect(await node.ok(kept)).toBe(key);
    expect(await roleOf(node, "alice")).toBe(ROLE);
  });

  test("uninstall leaves nothing: files, account, rules, state", async () => {
    await node.ok("imdsproxy service uninstall");
    expect(await stateOf(node)).toBe(before);
    const again = await node.run("/root/imdsproxy service uninstall");
    expect([again.code, again.stderr]).toEqual([0, ""]);
    expect(await stateOf(node)).toBe(before);
  });

  test("uninstall removes the state directory that was set up, where the configuration is unreadable by now", async () => {
    await node.ok(SETUP);
    await node.ok("echo 'stateDirectory: /var/lib/elsewhere' >>/etc/imdsproxy/config.yaml");
    await node.ok("imdsproxy setup");
    // The one of before goes as soon as the proxy has another.
    await node.ok("test -e /var/lib/elsewhere/token.key && test ! -e /var/lib/imdsproxy");
    await node.ok("echo 'rules: [' >/etc/imdsproxy/config.yaml");
    await node.ok("imdsproxy service uninstall");
    expect(await stateOf(node)).toBe(before);
  });

  for (const [where, damage] of [
    [
      "the configuration cannot be read and the unit is gone",
      "echo 'rules: [' >/etc/imdsproxy/config.yaml; rm /etc/systemd/system/imdsproxy.service",
    ],
    [
      "a directory stands in a unit's place",
      "cd /etc/systemd/system && rm imdsproxy.service && mkdir imdsproxy.service",
    ],
  ] as const) {
    test(`uninstall leaves nothing where ${where}`, async () => {
      await node.ok(SETUP);
      await node.ok(damage);
      await node.ok("imdsproxy service uninstall");
      expect(await stateOf(node)).toBe(before);
    });
  }

  test("--dry-run of everything changes nothing and shows files and commands", async () => {
    for (const command of [
      `${SETUP.replace(/^\S+ /, "")} --dry-run`,
      "service install --role-arn arn:aws:iam::842413447717:role/X --dry-run",
      "service enable --dry-run",
      "service disable --dry-run",
      "service uninstall --dry-run",
    ]) {
      const ran = await node.run(`/root/imdsproxy ${command}`);
      expect([command, ran.code, ran.stderr]).toEqual([command, 0, ""]);
      expect(ran.stdout).toMatch(/systemctl/);
    }
    expect(await stateOf(node)).toBe(before);
  });

  test("without root, and without systemd, one line says so", async () => {
    await node.ok("install -m 755 /root/imdsproxy /usr/local/lib/imdsproxy-copy");
    for (const command of ["setup --role-arn arn:aws:iam::842413447717:role/X", "service disable"]) {
      const ran = await node.run(`/usr/local/lib/imdsproxy-copy ${command}`, { as: "alice" });
      expect([command, ran.code]).toEqual([command, 1]);
      expect(ran.stderr).toContain("not running as root");
    }
    await node.ok("rm /usr/local/lib/imdsproxy-copy");
  });
});
