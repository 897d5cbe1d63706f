import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Running } from "../../src/demo/run.ts";
import { FirewallNode, ROOT } from "../firewall/node-support.ts";
import { eventually } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { HANGING_DIRECTORY, SILENT_DNS } from "./support/hanging-directory.ts";
import { processLimit, WATCH_ENVIRONMENT } from "./support/process-limit.ts";

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
      eventually("the rules are back", async () => {
        const output = await node.shell("iptables -S OUTPUT 1");
        return output.trim() === "-A OUTPUT -j IMDSPROXY" && (await ours()) === wanted;
      });
    const startWatch = async (argv: readonly string[]) => {
      // What the watch before this one knew.
      await node.shell("rm -f /run/imdsproxy/rules.json");
      watch = node.node.spawn({ ...ROOT, argv, env: WATCH_ENVIRONMENT, timeoutMs: 0 });
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
      /** Processes of the node that wait for the directory on the watch's behalf. */
      const waiting = async () =>
        (
          await node.shell(
            "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^[^ ]*getent passwd -- ghost' && basename $p; done; :",
          )
        )
          .split("\n")
          .filter((line) => line !== "");

      beforeAll(async () => {
        await node.shell(HANGING_DIRECTORY);
        node.node.spawn({ ...ROOT, argv: ["/usr/bin/python3", "-c", SILENT_DNS], timeoutMs: 0 });
        await eventually("the DNS server listens", async () =>
          (await node.shell("cat /proc/net/udp")).includes("0100007F:0035"),
        );
      });

      test("iptables by itself asks it about a uid, and waits", async () => {
        await node.shell(
          "iptables -N ASKS; timeout 1 iptables -A ASKS -m owner --uid-owner 990:990 -j RETURN || :; iptables -F ASKS; iptables -X ASKS",
        );
        expect((await questions()).join()).toContain("990:990");
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
        // Each repair makes the watch ask again who is exempt, for five seconds at the most: the next flush falls into that.
        for (let i = 0; whileWaiting < FLUSHES[backend].length && i < 10 * FLUSHES[backend].length; i++) {
          const [before] = await waiting();
          await node.shell(FLUSHES[backend][i % FLUSHES[backend].length] ?? "");
          await back(wanted);
          await node.shell("iptables -D OUTPUT -j ACCEPT 2>/dev/null || :");
          if (before !== undefined && (await waiting()).includes(before)) whileWaiting++;
        }
        expect(whileWaiting).toBe(FLUSHES[backend].length);
        expect((await stopWatch()).stderr).toContain("firewall rules repaired: ");
        await node.must("remove");
      }, 240_000);
      if (backend === "nft")
        test("and the log says in a line what was gone and who took it", async () => {
          node.node.write("/etc/imdsproxy/config.yaml", "{}");
          await startWatch(WATCH);
          await known();
          const wanted = await ours();
          await node.shell("nft flush ruleset");
          await back(wanted);
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
    );
  });
}
