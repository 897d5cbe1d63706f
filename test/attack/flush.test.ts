import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { Running } from "../../src/demo/run.ts";
import { NO_LATER_THREADS } from "../../src/platform/engine-options.ts";
import { mustExec } from "../support/node.ts";
import {
  applyRules,
  eventually,
  type ProxiedNode,
  startProxiedNode,
  testConfig,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { attack, SHOW_PROGRAMS } from "./support/attack.ts";
import { HANGING_DIRECTORY, SILENT_DNS } from "./support/hanging-directory.ts";
import { processLimit } from "./support/process-limit.ts";
import { BESIEGED, type Reports, Siege } from "./support/siege.ts";

/**
 * The firewall is flushed by others, in each way that others have, while users and a container ask for the instance role
 * in each way that they have: nobody but root may get an answer of it, with or without the watch.
 */

/**
 * How often each kind of flush is done: IMDSPROXY_FLUSHES=10000 for the long run, which also does it while the directory hangs
 * and while the watch can start no process, and prints how often who has asked.
 */
const LONG_RUN = process.env["IMDSPROXY_FLUSHES"];
const FLUSHES = Number(LONG_RUN ?? "12");
/** Between two flushes, on the average. A repair takes a fraction of a millisecond. */
const PAUSE_MS = 9;
const TIMEOUT_MS = 240_000 + 100 * FLUSHES;

const ROOT = { user: "root" };
const ENTRY = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";

/** What others do. Each is one line of sh, and programs/flusher.py does the same quickly; what it takes of the agent's, the agent puts back: that is the worst case. */
const KINDS: Readonly<Record<string, string>> = {
  "iptables -F": "iptables -F",
  "iptables -t nat -F": "iptables -t nat -F",
  "iptables -F and -X in each table":
    "for t in filter nat mangle raw; do iptables -t $t -F; iptables -t $t -X; ip6tables -t $t -F; ip6tables -t $t -X; done",
  "iptables-restore of an older file":
    "iptables-restore </run/before.rules; ip6tables-restore </run/before6.rules",
  "nft flush ruleset": "nft flush ruleset",
  "nft -f of a file with flush ruleset": "nft -f /run/nftables.conf",
  // firewalld --complete-reload: nothing for a moment, then its own table.
  "firewalld's complete reload":
    "nft flush ruleset; nft 'add table inet firewalld; add chain inet firewalld filter_OUTPUT { type filter hook output priority 10; policy accept; }'",
  // ufw's reload: its own chains by iptables-restore, the built-in ones flushed and entered anew.
  "ufw's reload":
    "iptables -F; iptables -X; iptables -P OUTPUT ACCEPT; printf '*filter\\n:ufw-before-output - [0:0]\\n-A OUTPUT -j ufw-before-output\\nCOMMIT\\n' | iptables-restore -n",
  // Docker as it starts: its chains anew, and the way to them first.
  "Docker's start":
    "iptables -t nat -F OUTPUT; iptables -t nat -N DOCKER 2>/dev/null; iptables -t nat -I OUTPUT 1 ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER; iptables -F FORWARD; iptables -F OUTPUT",
  "a switch of the alternatives":
    "for p in iptables ip6tables; do for s in '' -save -restore; do ln -sf /usr/sbin/$p-legacy$s /run/bin/$p$s; done; done; nft flush ruleset; for p in iptables ip6tables; do for s in '' -save -restore; do ln -sf /usr/sbin/$p-nft$s /run/bin/$p$s; done; done",
  // Somebody else's routing: it takes main and default too, which have to come back for root.
  "ip rule flush":
    "iptables -F; iptables -t nat -F; for f in -4 -6; do ip $f rule flush; ip $f rule add pref 32766 lookup main; ip $f rule add pref 32767 lookup default; done 2>/dev/null",
};
const again = `iptables -t nat -C OUTPUT ${ENTRY} 2>/dev/null || iptables -t nat -A OUTPUT ${ENTRY}`;

describeAsRoot("a flush of the firewall by others", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  let watch: Running;
  const shell = (line: string) => mustExec(node, ROOT, ["sh", "-c", line], { timeoutMs: TIMEOUT_MS });

  beforeAll(async () => {
    proxied = await startProxiedNode(
      { iptables: "nft", show: SHOW_PROGRAMS },
      { containers: "reject" },
      (started) => mustExec(started, ROOT, ["sh", "-euc", BESIEGED]),
    );
    node = proxied.node;
  });
  afterAll(() => node?.stop());

  /** What everybody's asking came to: nothing, but for root. */
  function expectClosed({ alice, box, root }: Reports): void {
    if (LONG_RUN !== undefined) {
      const failed = root.asked - (root.outcomes["LEAK"] ?? 0);
      console.log(
        `alice asked ${alice.asked} times, the container ${box.asked}; root ${root.asked}, of which ${failed} failed`,
        JSON.stringify([alice.outcomes, box.outcomes, root.outcomes]),
      );
    }
    expect([alice.leaks, alice.ways, box.leaks, box.ways]).toEqual([0, {}, 0, {}]);
    expect(root.leaks).toBeGreaterThan(0);
  }

  test("the thief is one: without the walls it has the instance role by most of its ways, and so has the container", async () => {
    await mustExec(node, ROOT, ["imdsproxy", "iptables", "remove"]);
    await shell(again);
    // Each way has 0.3 s for a connection, which a busy machine may take from it: then all of them are tried again.
    const missing = new Set([
      "plain",
      "agent",
      "metadata from 10.77.0.2",
      "metadata mptcp",
      "agent fast open",
      "metadata by lo",
      "the container's",
    ]);
    await eventually(
      "each of these ways is open",
      async () => {
        const open = await Siege.begin(node);
        await open.rounds(2);
        const { alice, box } = await open.end();
        for (const [way, leaks] of Object.entries(alice.ways)) if (leaks > 0) missing.delete(way);
        if (box.leaks > 0) missing.delete("the container's");
        return missing.size === 0;
      },
      90_000,
    );
    await applyRules(node);
  }, 240_000);

  const limit = LONG_RUN === undefined ? null : processLimit();
  afterAll(() => limit?.remove());
  const WATCH = ["imdsproxy", "iptables", "watch"];
  const configure = (exempt: readonly string[]) =>
    node.write(
      "/etc/imdsproxy/config.yaml",
      JSON.stringify(testConfig(node, { containers: "reject", exempt })),
    );
  const startWatch = async (argv = WATCH) => {
    await shell("rm -f /run/imdsproxy/firewall.json /run/imdsproxy/rules.json");
    watch = node.spawn({ ...ROOT, argv, env: NO_LATER_THREADS, timeoutMs: 0 });
    await eventually("the watch has looked", () => existsSync(node.path("/run/imdsproxy/firewall.json")));
    await eventually("it knows the rules in the kernel's own form", async () =>
      (await shell("cat /run/imdsproxy/rules.json 2>/dev/null || :")).includes('"tables"'),
    );
  };
  const stopWatch = async () => {
    watch.kill("SIGTERM");
    await watch.done;
  };
  /** Stops the watch where it does not hold the lock of the rules: in the middle of a repair, nobody could apply them any more. */
  const stopUnlocked = (pid: number) =>
    eventually("the watch is stopped, without the lock", async () => {
      process.kill(pid, "SIGSTOP");
      await eventually("each thread is stopped", () =>
        readdirSync(`/proc/${pid}/task`).every((thread) =>
          readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8").includes("State:\tT"),
        ),
      );
      const argv = ["flock", "--nonblock", "/run/imdsproxy-iptables.lock", "true"];
      if ((await node.exec({ ...ROOT, argv })).exitCode === 0) return true;
      process.kill(pid, "SIGCONT");
      return false;
    });
  /** Several flushes that come before the watch has its turn are one repair. */
  const repairs = () => watch.stderr().split("firewall rules repaired").length - 1;
  /** What the watch runs under, each with how that is brought about and ended. The first stays for the tests after it. */
  const CONDITIONS: readonly {
    readonly name: string;
    readonly begin: () => Promise<unknown>;
    readonly end: () => unknown;
  }[] = [
    ...(LONG_RUN === undefined
      ? []
      : [
          {
            name: "while the directory hangs",
            async begin() {
              // Somebody whom it has to be asked for, again and again.
              configure(["root", "ghost"]);
              await shell("cp /etc/nsswitch.conf /run/nsswitch.conf");
              await shell(HANGING_DIRECTORY);
              node.spawn({ ...ROOT, argv: ["/usr/bin/python3", "-c", SILENT_DNS], timeoutMs: 0 });
              await startWatch();
            },
            async end() {
              await stopWatch();
              await shell("rm -f /etc/hesiod.conf; cp /run/nsswitch.conf /etc/nsswitch.conf");
              configure(["root"]);
            },
          },
          ...(limit === null
            ? []
            : [
                {
                  name: "while the watch can start no process",
                  async begin() {
                    configure(["root", "ghost"]);
                    await startWatch([
                      "/bin/sh",
                      "-c",
                      `echo $$ >${limit.path}/cgroup.procs; exec ${WATCH.join(" ")}`,
                    ]);
                    limit.set(1);
                  },
                  async end() {
                    limit.set("max");
                    await stopWatch();
                    configure(["root"]);
                  },
                },
              ]),
        ]),
    { name: "with the watch running", begin: () => startWatch(), end() {} },
  ];
  for (const { name, begin, end } of CONDITIONS) {
    describe(name, () => {
      let siege: Siege;
      beforeAll(async () => {
        // setpriv, which makes a program alice's, asks the directory who she is.
        siege = await Siege.begin(node);
        await begin();
      });
      afterAll(end);
      for (const kind of Object.keys(KINDS)) {
        test(
          `${kind}: no user and no container has the instance role for a moment`,
          async () => {
            const before = repairs();
            const done = await attack<{ done: number; failed: number }>(
              node,
              ROOT,
              "flusher",
              [kind, FLUSHES, PAUSE_MS],
              TIMEOUT_MS,
            );
            await siege.rounds(1);
            if (LONG_RUN !== undefined)
              console.log(
                `${name}, ${kind}: ${done.done} flushes, of which ${done.failed} failed; ${repairs() - before} repairs, ${siege.leaks} leaks`,
              );
            expect([kind, siege.leaks]).toEqual([kind, 0]);
            await eventually("the watch has put everything back", async () =>
              (await shell("iptables -S OUTPUT 1; iptables -t nat -S OUTPUT 1 || :")).includes(
                "-A OUTPUT -j IMDSPROXY\n-A OUTPUT -j IMDSPROXY",
              ),
            );
          },
          TIMEOUT_MS,
        );
      }
      test(
        "at the end, nobody but root has had it",
        async () => {
          expectClosed(await siege.end());
          expect(repairs()).toBeGreaterThan(0);
        },
        TIMEOUT_MS,
      );
    });
  }

  describe("with the watch stopped, and for good", () => {
    let watchPid = 0;
    let siege: Siege;
    beforeAll(async () => {
      watchPid = watch.pid() ?? 0;
      expect(readFileSync(`/proc/${watchPid}/cmdline`, "utf8")).toStartWith("imdsproxy\0iptables\0watch");
      await stopUnlocked(watchPid);
      siege = await Siege.begin(node);
    });
    afterAll(() => process.kill(watchPid, "SIGCONT"));
    for (const [kind, line] of Object.entries(KINDS)) {
      test(
        `${kind}: no user and no container has the instance role`,
        async () => {
          await applyRules(node);
          await shell(`${line}; ${again}`);
          // One that takes nothing of ours would prove nothing.
          const left = (await shell("iptables-save")).split("-A OUTPUT -j IMDSPROXY\n").length - 1;
          expect([kind, left < 2]).toEqual([kind, true]);
          await siege.rounds(2);
          expect([kind, siege.leaks]).toEqual([kind, 0]);
        },
        TIMEOUT_MS,
      );
    }
    test("at the end, nobody but root has had it", async () => {
      expectClosed(await siege.end());
    });
  });
});
