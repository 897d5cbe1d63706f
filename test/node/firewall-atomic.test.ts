import { afterAll, beforeAll, expect, test } from "bun:test";
import { AGENT, ALICE, FirewallNode, METADATA, METADATA6, ROOT } from "../firewall/node-support.ts";
import { describeAsRoot } from "../support/root.ts";

/** IMDSPROXY_LONG=1 runs them at full length; else as often as a run of all tests has time for, legacy less often than nft. */
const LONG = process.env["IMDSPROXY_LONG"] === "1";
const KILLS = LONG ? 400 : 40;
const TIMEOUT_MS = LONG ? 2_400_000 : 600_000;

/**
 * When to kill a run: at random, up to about as long as a whole run takes on this machine at this time, which is learned: what
 * is killed before it has done anything makes the next run's moments later, what was done already makes them earlier.
 */
class Moments {
  #mostMs = 140;
  next(): number {
    return Math.random() * this.#mostMs;
  }
  was(how: "early" | "late"): void {
    this.#mostMs *= how === "early" ? 1.1 : 1 / 1.1;
  }
}
/** How often it is tried to meet both, early and late, beyond the kills that are made in any case. */
const MOST_KILLS = 10 * KILLS;

for (const backend of ["nft", "legacy"] as const) {
  const isNft = backend === "nft";
  const reApplies = LONG ? 1_000 : isNft ? 300 : 100;
  const connections = LONG ? 100_000 : isNft ? 30_000 : 10_000;
  describeAsRoot(`the firewall while it changes, on iptables-${backend}`, () => {
    let node: FirewallNode;
    beforeAll(async () => {
      node = await FirewallNode.start({ kind: "hyperpod", iptables: backend });
    });
    afterAll(() => node.node.stop());

    test(
      `no packet of alice's reaches the upstream during ${reApplies} re-applies, and root's always do`,
      async () => {
        await node.must("apply");
        // Behind the second wall no packet of alice's would come so far.
        await node.script("test/firewall/without-wall.ts").done;
        // Where packets arrive, after everything of ours: the agent is an address of the node, the metadata service is not.
        const count = [
          "iptables -t mangle -I INPUT -p tcp -d 169.254.0.2 --dport 9081 -m connmark ! --mark 7",
        ];
        // Root's are marked on their way out, before the filter.
        await node.shell(
          [
            "iptables -t mangle -A OUTPUT -m owner --uid-owner 0 -j CONNMARK --set-mark 7",
            ...count,
            "iptables -t mangle -A POSTROUTING -p tcp -d 169.254.169.254 --dport 80 -m connmark ! --mark 7",
            ...(node.node.ipv6
              ? [
                  "ip6tables -t mangle -A OUTPUT -m owner --uid-owner 0 -j CONNMARK --set-mark 7",
                  "ip6tables -t mangle -A POSTROUTING -p tcp -d fd00:ec2::254 --dport 80 -m connmark ! --mark 7",
                ]
              : []),
          ].join("\n"),
        );
        const counted = async () => {
          const saved = await node.shell("iptables-save -c -t mangle; ip6tables-save -c -t mangle");
          return saved
            .split("\n")
            .filter((line) => /-A (INPUT|POSTROUTING) /.test(line))
            .map((line) => Number(/^\[(\d+):/.exec(line)?.[1]));
        };
        const directory = await node.directory();
        const targets = [...AGENT, ...METADATA, ...(node.node.ipv6 ? METADATA6 : [])];
        const alices = node.probe(ALICE, "hammer", directory, ...targets);
        const roots = node.probe(ROOT, "hammer", directory, ...AGENT, ...METADATA);
        const changes = await node.script("test/firewall/reapply.ts", String(reApplies)).done;
        await node.shell(`touch ${directory}/stop`);
        expect([changes.stderr, changes.stdout]).toEqual(["", `${reApplies}\n`]);
        const { stdout } = await alices.done;
        const outcomes = Object.fromEntries(
          stdout
            .trim()
            .split(" ")
            .map((pair) => pair.split("=")),
        );
        expect(Object.keys(outcomes)).toEqual(["ECONNREFUSED"]);
        expect(Number(outcomes["ECONNREFUSED"])).toBeGreaterThan(reApplies);
        const served = /^other=(\d+)\n$/.exec((await roots.done).stdout)?.[1];
        expect(Number(served)).toBeGreaterThan(reApplies);
        expect(await counted()).toEqual((await counted()).map(() => 0));
        // The counters do count: without the rules, alice's packets are there.
        await node.must("remove");
        await node.must("remove-original");
        for (const [host, port] of [AGENT, METADATA, ...(node.node.ipv6 ? [METADATA6] : [])]) {
          expect(await node.ask(ALICE, "ask", host, port)).toBe("other");
        }
        for (const packets of await counted()) expect(packets).toBeGreaterThan(0);
        await node.shell("iptables -t mangle -F; ip6tables -t mangle -F");
      },
      TIMEOUT_MS,
    );

    test(
      `${connections} short connections of root's see no reset`,
      async () => {
        await node.must("apply");
        expect(await node.ask(ROOT, "many", ...METADATA, String(connections))).toBe(`other=${connections}`);
      },
      TIMEOUT_MS,
    );

    test("the kernel's own last word on a connection comes through", async () => {
      // Nobody has 169.254.0.2:9081 on this address twice: a second loopback address stands for the other side.
      await node.must("apply", "--upstream", "127.0.0.9:9081");
      expect(await node.ask(ROOT, "reset", "127.0.0.9", "9081")).toBe("ECONNREFUSED");
      await node.must("remove");
    });

    test(
      "apply and remove killed at any moment leave the old rules or the new ones, and never a half",
      async () => {
        const config = (containers: string) =>
          node.node.write("/etc/imdsproxy/config.yaml", `containers: ${containers}\n`);
        await node.must("remove");
        const states = new Map<string, string>([["remove", await node.rules()]]);
        for (const containers of ["leave", "proxy"]) {
          config(containers);
          await node.must("apply");
          states.set(containers, await node.rules());
        }
        expect(new Set(states.values()).size).toBe(3);
        const seen = new Map<string, number>();
        const moments = new Moments();
        let now = "proxy";
        for (let i = 0; i < KILLS || (seen.size < 2 && i < MOST_KILLS); i++) {
          const next = ["leave", "proxy", "remove"].filter((name) => name !== now)[i % 2] ?? "remove";
          if (next !== "remove") config(next);
          const run = node.node.spawn({
            ...ROOT,
            argv: ["imdsproxy", "iptables", next === "remove" ? "remove" : "apply"],
          });
          await Bun.sleep(moments.next());
          run.kill(i % 4 === 3 ? "SIGINT" : "SIGKILL");
          await run.done;
          await node.settled();
          const found = await node.rules();
          const name = [...states].find(([, rules]) => rules === found)?.[0] ?? `a half: ${found}`;
          expect([now, next]).toContain(name);
          const how = name === next ? "new" : "old";
          moments.was(how === "old" ? "early" : "late");
          seen.set(how, (seen.get(how) ?? 0) + 1);
          now = name;
        }
        // Both were seen, so the moments were not all before or all after.
        expect([...seen.keys()].sort()).toEqual(["new", "old"]);
        await node.shell("rm -f /etc/imdsproxy/config.yaml");
        await node.must("remove");
      },
      TIMEOUT_MS,
    );

    test(
      "killed with everything that it started, it leaves no redirect without its block, and a second run mends it",
      async () => {
        await node.must("apply");
        const right = await node.rules();
        const seen = new Set<string>();
        const moments = new Moments();
        const [before, after] = ["filter true nat true", "filter false nat false"];
        const isBoth = () => seen.has(before) && seen.has(after);
        for (let i = 0; i < KILLS || (!isBoth() && i < MOST_KILLS); i++) {
          const command = i % 2 === 0 ? "remove" : "apply";
          // A session of its own, so that one signal meets all of it, iptables-restore included.
          await node.shell(
            `setsid imdsproxy iptables ${command} >/dev/null 2>&1 & sleep ${(moments.next() / 1_000).toFixed(3)}; kill -9 -- -$! 2>/dev/null || true; wait`,
          );
          await node.settled();
          for (const family of (await node.rules()).split("ipv6")) {
            const [filter, nat] = ["*filter", "*nat"].map((name) =>
              new RegExp(`^\\${name}\n(?:[^*].*\n)*?-A OUTPUT -j IMDSPROXY$`, "m").test(family),
            );
            seen.add(`filter ${filter} nat ${nat}`);
          }
          if (command === "remove") moments.was((await node.rules()) === right ? "early" : "late");
          await node.must("apply");
          expect(await node.rules()).toBe(right);
        }
        expect([...seen]).not.toContain("filter false nat true");
        expect([...seen]).toContain(before);
        expect([...seen]).toContain(after);
        await node.must("remove");
      },
      TIMEOUT_MS,
    );
  });
}
