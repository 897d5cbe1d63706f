import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { processTree } from "../../src/demo/namespace.ts";
import type { Running } from "../../src/demo/run.ts";
import { NO_LATER_THREADS } from "../../src/platform/engine-options.ts";
import { FirewallNode, ROOT } from "../firewall/node-support.ts";
import { eventually } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { HANGING_DIRECTORY, SILENT_DNS } from "./support/hanging-directory.ts";
import { processLimit } from "./support/process-limit.ts";

/**
 * The watch over the rules, while what it stands on is taken away: the directory service, the node's last process. An
 * ordinary user can bring about both; the flush is root's, by a tool of the node.
 */

const FLUSHES: Record<"nft" | "legacy", readonly string[]> = {
  nft: [
    "iptables -F; ip6tables -F",
    "iptables -t nat -F; ip6tables -t nat -F",
    "nft flush ruleset",
    "iptables -I OUTPUT -j ACCEPT",
    "iptables -D IMDSPROXY 3",
  ],
  legacy: ["iptables -F; iptables -t nat -F", "iptables -I OUTPUT -j ACCEPT", "iptables -D IMDSPROXY 3"],
};

/** For how long the rules are flushed, until each flush has fallen into a question to the directory. */
const FLUSHED_MS = 180_000;

for (const backend of ["nft", "legacy"] as const) {
  describeAsRoot(`the watch, on iptables-${backend}`, () => {
    let node: FirewallNode;
    let watch: Running;
    const rules = () => node.rules();
    const ours = async () =>
      (await rules())
        .split("\n")
        .filter((line) => line.includes("IMDSPROXY"))
        .join("\n");
    const back = async (wanted: string) =>
      eventually(
        "the rules are back",
        async () => {
          const first = await node.node.exec({ ...ROOT, argv: ["iptables", "-S", "OUTPUT", "1"] });
          return first.stdout.trim() === "-A OUTPUT -j IMDSPROXY" && (await ours()) === wanted;
        },
        60_000,
      );
    const repairs = () => watch.stderr().split("firewall rules repaired: ").length - 1;
    /** A repair is logged after it is made. */
    const logged = () => eventually("the repair is logged", () => repairs() > 0);
    const startWatch = async (argv: readonly string[]) => {
      // What the watch before this one knew.
      await node.shell("rm -f /run/imdsproxy/rules.json");
      watch = node.node.spawn({ ...ROOT, argv, env: NO_LATER_THREADS, timeoutMs: 0 });
      await eventually("the rules are there", async () => (await rules()).includes("IMDSPROXY"));
    };
    /** With iptables-nft: in the kernel's own form. */
    const known = () =>
      eventually("the rules are known", async () =>
        (await node.shell("cat /run/imdsproxy/rules.json 2>/dev/null || :")).includes(
          backend === "nft" ? '"tables"' : '"spec"',
        ),
      );
    const stopWatch = async () => {
      watch.kill("SIGTERM");
      return watch.done;
    };
    const WATCH = ["/run/bin/imdsproxy", "iptables", "watch"];

    beforeAll(async () => {
      node = await FirewallNode.start({ kind: "hyperpod", iptables: backend });
      await node.shell("echo 'imdsproxy:x:990:990::/nonexistent:/usr/sbin/nologin' >>/etc/passwd");
    });
    afterAll(() => node?.node.stop());

    describe("while the directory hangs", () => {
      const questions = async () =>
        (await node.shell("cat /run/dns.log")).split("\n").filter((line) => line !== "");
      /** Processes that wait for the directory on the watch's behalf. */
      const waiting = () => processTree(watch.pid() ?? 0).filter(isAsking);
      const isAsking = (pid: number) => {
        try {
          return /^[^\0]*getent\0passwd\0--\0ghost\0/.test(readFileSync(`/proc/${pid}/cmdline`, "utf8"));
        } catch {
          // It has ended.
          return false;
        }
      };

      beforeAll(async () => {
        await node.shell(HANGING_DIRECTORY);
        node.node.spawn({ ...ROOT, argv: ["/usr/bin/python3", "-c", SILENT_DNS], timeoutMs: 0 });
        await eventually("the DNS server listens", async () =>
          (await node.shell("cat /proc/net/udp")).includes("0100007F:0035"),
        );
      });

      test("iptables by itself asks it about a uid, and waits", async () => {
        await node.shell("iptables -N ASKS");
        const argv = ["iptables", "-A", "ASKS", "-m", "owner", "--uid-owner", "990:990", "-j", "RETURN"];
        const asking = node.node.spawn({ ...ROOT, argv, timeoutMs: 0 });
        try {
          await eventually("it has asked", async () => (await questions()).join().includes("990:990"));
        } finally {
          asking.kill("SIGKILL");
          await asking.done;
        }
        await node.shell("iptables -F ASKS; iptables -X ASKS");
      });
      test("apply and remove ask it nothing", async () => {
        const before = (await questions()).length;
        await node.must("apply");
        await node.must("remove");
        expect((await questions()).slice(before)).toEqual([]);
      });
      test("what is flushed is back while the watch still waits for it", async () => {
        node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ exempt: ["root", "ghost"] }));
        await startWatch(WATCH);
        await known();
        const wanted = await ours();
        let whileWaiting = 0;
        const endMs = performance.now() + FLUSHED_MS;
        // Each repair makes the watch ask again who is exempt, for five seconds at the most: the next flush falls into that.
        for (let i = 0; whileWaiting < FLUSHES[backend].length && performance.now() < endMs; i++) {
          const [before] = waiting();
          // Asked at each repair, as the log tells of it: a look at the rules by other programs takes a busy machine seconds.
          let seen = repairs();
          let isStill = false;
          const look = setInterval(() => {
            if (repairs() === seen) return;
            seen = repairs();
            isStill = waiting().some((pid) => pid === before);
          }, 10);
          await node.shell(FLUSHES[backend][i % FLUSHES[backend].length] ?? "");
          await back(wanted).finally(() => clearInterval(look));
          await node.shell("iptables -D OUTPUT -j ACCEPT 2>/dev/null || :");
          if (before !== undefined && isStill) whileWaiting++;
        }
        expect(whileWaiting).toBe(FLUSHES[backend].length);
        await logged();
        expect((await stopWatch()).stderr).toContain("firewall rules repaired: ");
        await node.must("remove");
      }, 260_000);
      if (backend === "nft")
        test("and the log says in a line what was gone and who took it", async () => {
          node.node.write("/etc/imdsproxy/config.yaml", "{}");
          await startWatch(WATCH);
          await known();
          const wanted = await ours();
          await node.shell("nft flush ruleset");
          await back(wanted);
          await logged();
          expect((await stopWatch()).stderr).toMatch(
            /^firewall rules repaired: .*IPv4 filter: everything of ours is gone; IPv4 nat: everything of ours is gone.*\(changed by .*\bnft \(pid \d+\)/m,
          );
          await node.must("remove");
        });
    });

    // iptables-legacy can be written by its own program alone: without a process nothing is repaired there.
    if (backend === "legacy") return;
    const limit = processLimit();
    afterAll(() => limit?.remove());
    test.skipIf(limit === null)(
      "while the node has no process left: what is flushed is back, and the watch goes on",
      async () => {
        if (limit === null) return;
        await node.shell(
          "rm -f /etc/hesiod.conf; printf 'passwd: files\\ngroup: files\\n' >/etc/nsswitch.conf",
        );
        node.node.write("/etc/imdsproxy/config.yaml", JSON.stringify({ exempt: ["root", "ghost"] }));
        await startWatch(["/bin/sh", "-c", `echo $$ >${limit.path}/cgroup.procs; exec ${WATCH.join(" ")}`]);
        await known();
        const wanted = await ours();
        limit.set(1);
        for (let i = 0; i < 20; i++) {
          await node.shell(FLUSHES.nft[i % FLUSHES.nft.length] ?? "");
          await back(wanted);
          await node.shell("iptables -D OUTPUT -j ACCEPT 2>/dev/null || :");
        }
        await eventually("it says that it cannot start a process", () => watch.stderr().includes("EAGAIN"));
        limit.set("max");
        // It asked who is exempt while it could start nothing: that is no reason to exempt anybody less.
        expect(await ours()).toBe(wanted);
        const { exitCode, stderr } = await stopWatch();
        expect([exitCode, stderr.includes("has crashed")]).toEqual([0, false]);
      },
      240_000,
    );
  });
}
