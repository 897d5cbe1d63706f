import { afterAll, beforeAll, expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { type Machine, until } from "./support/machine.ts";
import {
  addHammers,
  forgetHammered,
  hammered,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
} from "./support/node.ts";

const MINUTES = 60_000;
/** What the issue promises. */
const NOTICED_WITHIN_MS = 30_000;

interface Health {
  readonly repairs: number;
  readonly lastRepair: string | null;
  readonly lastCheck: string;
  readonly healthy: boolean;
}

describeAsRoot("what is moved is put back", () => {
  let node: Machine;

  const health = async () => JSON.parse(await node.ok("cat /run/imdsproxy/firewall.json")) as Health;
  const rules = () =>
    node.ok("for f in iptables ip6tables; do $f-save | grep IMDSPROXY | sed 's/\\[.*//'; done");
  const mainPid = async (unit: string) => (await node.ok(`systemctl show -P MainPID ${unit}`)).trim();
  const leaks = async () => Object.values(await hammered(node)).reduce((sum, { leaks }) => sum + leaks, 0);
  const closed = async () => {
    expect(await leaks()).toBe(0);
    // The rules are back before an agent that restarts listens again.
    await until("root has the instance role", async () => (await roleOf(node)) === INSTANCE_ROLE);
    expect(await roleOf(node, "alice")).toBe(ROLE);
  };

  beforeAll(async () => {
    node = makeNode();
    addHammers(node);
    await node.boot();
    await node.ok(SETUP);
    await forgetHammered(node);
  }, 5 * MINUTES);
  afterAll(() => node?.destroy(), MINUTES);

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
  test(
    "a change by iptables-nft is noticed at once, not at the next look",
    async () => {
      const tries: number[] = [];
      for (let i = 0; i < 5; i++) {
        const before = await health();
        const startedMs = performance.now();
        await node.ok("iptables -w -D OUTPUT -j IMDSPROXY");
        await until("the repair is counted", async () => (await health()).repairs > before.repairs);
        tries.push(performance.now() - startedMs);
      }
      // The interval alone would take a second on average.
      expect(tries.sort((a, b) => a - b)[2]).toBeLessThan(800);
      await forgetHammered(node);
    },
    MINUTES,
  );

  for (const { what, command, opens } of damages) {
    test(
      `within 30 s where ${what}, with a word in the journal and a count`,
      async () => {
        const [wanted, before] = [await rules(), await health()];
        await node.ok(command);
        const repaired = async () => (await health()).repairs > before.repairs;
        await until("the repair is counted", repaired, NOTICED_WITHIN_MS);
        // A flush in several commands is several repairs.
        await until("the rules are back", async () => (await rules()) === wanted, NOTICED_WITHIN_MS);
        expect((await health()).healthy).toBe(true);
        expect(await node.ok("journalctl -u imdsproxy-repair -o cat -n 3 --no-pager")).toContain("repaired");
        if (opens) {
          await Bun.sleep(300);
          await forgetHammered(node);
          await Bun.sleep(500);
        }
        await closed();
        await node.run("iptables -w -D OUTPUT -j ACCEPT");
      },
      2 * MINUTES,
    );
  }

  test(
    "serve's metrics tell of the repairs",
    async () => {
      const metrics = await node.ok("curl -sS http://127.0.0.1:9254/metrics");
      const { repairs } = await health();
      expect(repairs).toBeGreaterThanOrEqual(damages.length);
      expect(metrics).toMatch(new RegExp(`firewall_repairs\\w*(\\{[^}]*\\})? ${repairs}\\n`));
    },
    MINUTES,
  );

  for (const [what, units] of Object.entries({
    "the proxy": ["imdsproxy"],
    "the watch": ["imdsproxy-repair"],
    both: ["imdsproxy", "imdsproxy-repair"],
  })) {
    test(
      `kill -9 of ${what}: nothing opens, and it comes back`,
      async () => {
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
      },
      MINUTES,
    );
  }

  test(
    "twenty kills in a row do not make systemd give up",
    async () => {
      for (let i = 0; i < 20; i++) {
        await until("it runs", async () => (await node.run("systemctl is-active imdsproxy")).code === 0);
        await node.run("systemctl kill --kill-who=main --signal KILL imdsproxy");
      }
      await until("it runs again", async () => (await node.run("systemctl is-active imdsproxy")).code === 0);
      await closed();
    },
    2 * MINUTES,
  );

  test(
    "stopping the units of the firewall leaves the rules",
    async () => {
      const wanted = await rules();
      await node.ok("systemctl stop imdsproxy-repair imdsproxy-iptables");
      expect(await rules()).toBe(wanted);
      await closed();
      await node.ok("systemctl start imdsproxy-iptables imdsproxy-repair");
    },
    MINUTES,
  );

  test(
    "a configuration that cannot be read at boot brings the rules as they were",
    async () => {
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
      expect(await leaks()).toBe(0);
      expect(await rules()).toBe(wanted);
      expect(await roleOf(node)).toBe(INSTANCE_ROLE);
      await node.ok("cp -p /root/config.yaml /etc/imdsproxy/config.yaml");
      await until(
        "the proxy is back",
        async () => (await node.run("systemctl is-active imdsproxy")).code === 0,
      );
      await closed();
    },
    2 * MINUTES,
  );

  test(
    "without any memory of the rules, and no configuration, the node is closed",
    async () => {
      await node.ok("mv /etc/imdsproxy/config.yaml /root/config.yaml; rm -r /var/lib/imdsproxy-root");
      await node.ok("echo 'role: [' > /etc/imdsproxy/config.yaml");
      await forgetHammered(node);
      await node.reboot();
      await Bun.sleep(3000);
      expect(await leaks()).toBe(0);
      expect(await roleOf(node, "alice")).toContain("curl: (7)");
      expect(await roleOf(node)).toBe(INSTANCE_ROLE);
      await node.ok("mv /root/config.yaml /etc/imdsproxy/config.yaml");
      await until(
        "the proxy is back",
        async () => (await node.run("systemctl is-active imdsproxy")).code === 0,
      );
      await until("alice has her role", async () => (await roleOf(node, "alice")) === ROLE);
      await closed();
    },
    2 * MINUTES,
  );
});
