import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import {
  addHammers,
  forgetHammered,
  getsRole,
  hammered,
  hammeredEnough,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
} from "./support/node.ts";

/** What the issue promises. */
const NOTICED_WITHIN_MS = 30_000;

/** It looks every 2 s, counted from a look's start, and its report is written at the look's end, which takes some of that time. */
const SOONEST_LOOK_MS = 1_500;

interface Health {
  readonly repairs: number;
  readonly lastRepair: string | null;
  readonly lastCheck: string;
  readonly healthy: boolean;
}

describeAsRoot("what is moved is put back", () => {
  const node = bootedMachine(
    () => {
      const node = makeNode();
      addHammers(node);
      return node;
    },
    async () => {
      await node.ok(SETUP);
      await forgetHammered(node);
    },
  );

  const health = async () => JSON.parse(await node.ok("cat /run/imdsproxy/firewall.json")) as Health;
  const rules = () =>
    node.ok("for f in iptables ip6tables; do $f-save | grep IMDSPROXY | sed 's/\\[.*//'; done");
  const mainPid = async (unit: string) => (await node.ok(`systemctl show -P MainPID ${unit}`)).trim();
  const leaks = async () => Object.values(await hammered(node)).reduce((sum, { leaks }) => sum + leaks, 0);
  const closed = async () => {
    expect(await leaks()).toBe(0);
    // The rules are back before an agent that restarts listens again, and systemd may still call what was killed active.
    await getsRole(node, INSTANCE_ROLE);
    await getsRole(node, ROLE, "alice");
    expect(await leaks()).toBe(0);
  };
  /** How often the journal tells of a repair. */
  const told = async () =>
    Number(await node.ok("journalctl -u imdsproxy-repair -o cat --no-pager | grep -c repaired || true"));

  // What opens the node opens it until the repair, as it is without us: there, what counts is what comes after.
  const damages = [
    {
      what: "everything is flushed",
      command:
        // -X finds our chain in use where the watch was quicker than the next command.
        "for f in iptables ip6tables; do for t in nat filter; do $f -w -t $t -F; $f -w -t $t -X || :; done; done",
      opens: true,
    },
    {
      what: "the agent restarts and puts its entry first",
      command: "systemctl restart hyperpod-agent",
      opens: false,
    },
    { what: "a rule of the block is deleted", command: "iptables -w -D IMDSPROXY 4", opens: true },
    {
      what: "an accepting rule comes before the block",
      command: "iptables -w -I OUTPUT 1 -j ACCEPT",
      opens: true,
    },
    { what: "the IPv6 block is emptied", command: "ip6tables -w -F IMDSPROXY", opens: false },
  ];
  test("a change by iptables-nft is noticed at once, not at the next look", async () => {
    // A watch that only looks repairs at its next look, which is no sooner than this after its last, whenever the change was.
    let sooner = 0;
    await until("three repairs came before the next look was due", async () => {
      const before = await health();
      await node.ok("iptables -w -D OUTPUT -j IMDSPROXY");
      await until("the repair is counted", async () => (await health()).repairs > before.repairs);
      const { lastRepair } = await health();
      if (Date.parse(lastRepair ?? "") - Date.parse(before.lastCheck) < SOONEST_LOOK_MS) sooner++;
      return sooner === 3;
    });
    await forgetHammered(node);
  });

  for (const { what, command, opens } of damages) {
    test(`within 30 s where ${what}, with a word in the journal and a count`, async () => {
      const [wanted, before, toldBefore] = [await rules(), await health(), await told()];
      await node.ok(command);
      const repaired = async () => (await health()).repairs > before.repairs;
      await until("the repair is counted", repaired, NOTICED_WITHIN_MS);
      // A flush in several commands is several repairs.
      await until("the rules are back", async () => (await rules()) === wanted, NOTICED_WITHIN_MS);
      // Both are written after the rules are there.
      await until("the watch reports that all is right", async () => (await health()).healthy);
      await until("the journal tells of it", async () => (await told()) > toldBefore);
      if (opens) {
        await forgetHammered(node);
        await hammeredEnough(node, 10);
      }
      await closed();
      await node.run("iptables -w -D OUTPUT -j ACCEPT");
    });
  }

  test("serve's metrics tell of the repairs", async () => {
    const metrics = await node.ok("curl -sS http://127.0.0.1:9254/metrics");
    const { repairs } = await health();
    expect(repairs).toBeGreaterThanOrEqual(damages.length);
    expect(metrics).toMatch(new RegExp(`firewall_repairs\\w*(\\{[^}]*\\})? ${repairs}\\n`));
  });

  for (const [what, units] of Object.entries({
    "the proxy": ["imdsproxy"],
    "the watch": ["imdsproxy-repair"],
    both: ["imdsproxy", "imdsproxy-repair"],
  })) {
    test(`kill -9 of ${what}: nothing opens, and it comes back`, async () => {
      const [wanted, before] = [await rules(), await Promise.all(units.map(mainPid))];
      await node.ok(`kill -9 ${before.join(" ")}`);
      expect(await rules()).toBe(wanted);
      for (const [i, unit] of units.entries()) {
        await until(`${unit} runs again`, async () => {
          const pid = await mainPid(unit);
          return (
            pid !== "0" && pid !== before[i] && (await node.run(`systemctl is-active ${unit}`)).code === 0
          );
        });
      }
      await closed();
    });
  }

  test("twenty kills in a row do not make systemd give up", async () => {
    for (let i = 0; i < 20; i++) {
      await until("it runs", async () => (await node.run("systemctl is-active imdsproxy")).code === 0);
      await node.run("systemctl kill --kill-who=main --signal KILL imdsproxy");
    }
    await until("it runs again", async () => (await node.run("systemctl is-active imdsproxy")).code === 0);
    await closed();
  });

  test("stopping the units of the firewall leaves the rules", async () => {
    const wanted = await rules();
    await node.ok("systemctl stop imdsproxy-repair imdsproxy-iptables");
    expect(await rules()).toBe(wanted);
    await closed();
    await node.ok("systemctl start imdsproxy-iptables imdsproxy-repair");
  });

  test("a configuration that cannot be read at boot brings the rules as they were", async () => {
    await node.ok(
      "cp -p /etc/imdsproxy/config.yaml /root/config.yaml; echo 'role: [' > /etc/imdsproxy/config.yaml",
    );
    const wanted = await rules();
    await forgetHammered(node);
    await node.reboot();
    await until(
      "the watch has run",
      async () => (await node.run("systemctl is-active imdsproxy-repair")).code === 0,
    );
    await Bun.sleep(3000);
    await hammeredEnough(node, 21);
    expect(await leaks()).toBe(0);
    expect(await rules()).toBe(wanted);
    await getsRole(node, INSTANCE_ROLE);
    // As cp(1) has it for a moment, and a full disk for good: a proxy that starts just then must not take it for the defaults.
    await node.ok(": >/etc/imdsproxy/config.yaml; systemctl reset-failed imdsproxy");
    expect((await node.run("systemctl restart imdsproxy")).code).not.toBe(0);
    expect(await rules()).toBe(wanted);
    await node.ok("cp -p /root/config.yaml /etc/imdsproxy/config.yaml");
    await until(
      "the proxy is back",
      async () => (await node.run("systemctl is-active imdsproxy")).code === 0,
    );
    await closed();
  });

  test("without any memory of the rules, and no configuration, the node is closed", async () => {
    await node.ok("mv /etc/imdsproxy/config.yaml /root/config.yaml; rm -r /var/lib/imdsproxy-root");
    await node.ok("echo 'role: [' > /etc/imdsproxy/config.yaml");
    await forgetHammered(node);
    await node.reboot();
    await Bun.sleep(3000);
    await hammeredEnough(node, 21);
    expect(await leaks()).toBe(0);
    expect(await roleOf(node, "alice")).toContain("curl: (7)");
    await getsRole(node, INSTANCE_ROLE);
    await node.ok("mv /root/config.yaml /etc/imdsproxy/config.yaml");
    await until(
      "the proxy is back",
      async () => (await node.run("systemctl is-active imdsproxy")).code === 0,
    );
    await getsRole(node, ROLE, "alice");
    await closed();
  });
});
