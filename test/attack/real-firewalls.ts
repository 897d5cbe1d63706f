import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mustExec } from "../support/node.ts";
import { eventually, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { SHOW_PROGRAMS } from "./support/attack.ts";
import { BESIEGED, Siege } from "./support/siege.ts";

/**
 * Other firewalls of Debian's, the real ones, in each thing that they do to the rules, while users and a container ask for the instance
 * role in each way that they have and the watch puts our rules back. `make test-firewalls` runs it.
 */

/** How often each is done: IMDSPROXY_FLUSHES=100 for a long run. */
const TIMES = Number(process.env["IMDSPROXY_FLUSHES"] ?? "1");
const TIMEOUT_MS = 60_000 + 30_000 * TIMES;
const ROOT = { user: "root" } as const;
const ENTRY = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
/** The agent puts its entry back at once: the worst case. */
const AGAIN = `iptables -t nat -C OUTPUT ${ENTRY} 2>/dev/null || iptables -t nat -A OUTPUT ${ENTRY}`;

describeAsRoot("beside another firewall", () => {
  let node: SimulatedNode;
  let siege: Siege;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-euc", line], { timeoutMs: TIMEOUT_MS });

  beforeAll(async () => {
    ({ node } = await startProxiedNode(
      { iptables: "nft", show: SHOW_PROGRAMS },
      { containers: "reject" },
      (started) => mustExec(started, ROOT, ["sh", "-euc", BESIEGED]),
    ));
    node.spawn({ ...ROOT, argv: ["imdsproxy", "iptables", "watch"], timeoutMs: 0 });
    await eventually("the watch has looked", () => existsSync(node.path("/run/imdsproxy/firewall.json")));
    siege = await Siege.begin(node);
  });
  const stillClosed = async () => {
    await siege.rounds(1);
    expect(siege.leaks).toBe(0);
    await eventually(
      "the watch has put everything back",
      async () => (await node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "status"] })).exitCode === 0,
    );
  };
  afterAll(() => node?.stop());

  const repeated = async (...lines: readonly string[]) => {
    for (let i = 0; i < TIMES; i++)
      for (const line of lines) await shell(`${line} >/dev/null 2>&1; ${AGAIN}`);
  };

  test(
    "ufw is enabled, reloads, is disabled and reset",
    async () => {
      await repeated("ufw --force enable", "ufw reload", "ufw disable", "ufw --force reset");
      await stillClosed();
    },
    TIMEOUT_MS,
  );
  test(
    "firewalld starts, reloads, reloads completely and ends",
    async () => {
      await shell("mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile");
      for (let i = 0; i < TIMES; i++) {
        const firewalld = node.spawn({
          ...ROOT,
          argv: ["firewalld", "--nofork", "--nopid"],
          timeoutMs: 0,
        });
        await eventually(
          "firewalld runs",
          async () => (await node.exec({ ...ROOT, argv: ["firewall-cmd", "--state"] })).exitCode === 0,
        );
        expect(await shell("nft list tables")).toContain("firewalld");
        for (const command of ["--reload", "--complete-reload", "--panic-on", "--panic-off"])
          await shell(`firewall-cmd ${command}; ${AGAIN}`);
        firewalld.kill("SIGTERM");
        await firewalld.done;
        await shell(AGAIN);
      }
      await stillClosed();
    },
    TIMEOUT_MS,
  );
  test("at the end, nobody but root has had it, and alice was served", async () => {
    const { alice, box, root } = await siege.end();
    if (process.env["IMDSPROXY_FLUSHES"] !== undefined)
      console.log(JSON.stringify([alice, box, root].map(({ asked, outcomes }) => ({ asked, outcomes }))));
    expect([alice.ways, box.ways]).toEqual([{}, {}]);
    expect(root.leaks).toBeGreaterThan(0);
    expect(alice.outcomes["own"]).toBeGreaterThan(0);
  });
});
