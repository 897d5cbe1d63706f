import { afterAll, beforeAll, expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { type Machine, until } from "./support/machine.ts";
import { credentialsOf, DOWNLOADED, makeNode, ROLE, SETUP } from "./support/node.ts";

/**
 * What keeps users from credentials, on a booted node: the first commands that a person types name it. Not a part of the suite,
 * where test/node/drills.test.ts asks the same of a node without systemd: `bun test --timeout=60000 ./test/boot/status-drills.ts`, as root,
 * after `make build`; about a minute on a busy machine.
 */

const MINUTES = 60_000;

describeAsRoot("when something is wrong on a booted node", () => {
  let node: Machine;
  beforeAll(async () => {
    node = makeNode();
    await node.boot();
  }, 5 * MINUTES);
  afterAll(() => node?.destroy(), MINUTES);

  test(
    "what else keeps users from credentials: the three commands that a person types first name it, with what to do",
    async () => {
      await node.ok(SETUP);
      const breakSts = async (fault: object) => {
        const text = JSON.stringify(fault);
        await node.ok(`cat > /var/lib/stand-in/new && mv /var/lib/stand-in/new /var/lib/stand-in/sts-fault`, {
          input: text,
        });
        await until(
          "STS has the fault",
          async () => (await node.run(`cat /var/lib/stand-in/sts-fault.taken`)).stdout === text,
        );
      };
      /** What the commands say once `service status`, and alice's own, say what they should. */
      const named = async (what: RegExp, own?: RegExp) => {
        const nothing = { code: -1, stdout: "", stderr: "" };
        let [status, alice] = [nothing, nothing];
        await until(`service status says ${what}, whoami ${own}`, async () => {
          // On a busy machine curl may end before it has asked for them.
          if (own !== undefined) await credentialsOf(node, ROLE, "alice");
          status = await node.run("imdsproxy service status");
          alice = await node.run("imdsproxy whoami", { as: "alice" });
          return what.test(status.stdout) && (own === undefined || own.test(alice.stdout));
        });
        return {
          status,
          alice,
          json: JSON.parse((await node.run("imdsproxy service status --json")).stdout),
          rules: await node.run("imdsproxy iptables status"),
          screen: await node.run("imdsproxy status"),
          own: await node.run("imdsproxy status", { as: "alice" }),
        };
      };
      const failures: [fault: object, what: RegExp, remedy: string, own: RegExp][] = [
        [
          { kind: "error", status: 400, code: "Throttling" },
          /^PROBLEM .*\(Throttling,/m,
          "asked too often",
          /asked too often/,
        ],
        [{ kind: "drop" }, /^PROBLEM .*\(connection,/m, "security group", /cannot be reached/],
        [{ kind: "hang" }, /^PROBLEM .*\(timeout,/m, "security group", /did not answer|cannot be reached/],
      ];
      for (const [fault, what, remedy, own] of failures) {
        await breakSts(fault);
        // Without what it knows of the last failure, and without alice's session.
        await node.ok("systemctl restart imdsproxy");
        const { status, json, rules, alice, screen, own: hers } = await named(what, own);
        const first = new RegExp(what.source.replace("^PROBLEM", "^NOT healthy:"));
        expect([screen.code, screen.stdout]).toEqual([1, expect.stringMatching(first)]);
        expect(screen.stdout).toContain("imdsproxy.service enabled, active");
        expect(hers.stdout).toMatch(/^NOT healthy: /);
        expect([status.code, status.stdout]).toEqual([1, expect.stringContaining(remedy)]);
        expect(status.stdout).toMatch(/^ {2}since \d{4}-/m);
        expect(json.healthy).toBe(false);
        const sts = { id: "sts", lasting: false, remedy: expect.stringContaining(remedy) };
        expect(json.problems).toContainEqual(expect.objectContaining(sts));
        expect(rules.stdout).toMatch(what);
        expect(rules.stdout).toContain(remedy);
        expect(alice.stdout).toContain("no session: STS gave none");
      }
      await breakSts({ kind: "none" });
      await node.ok("systemctl restart imdsproxy && systemctl stop hyperpod-agent");
      const away = /^PROBLEM .*169\.254\.0\.2:9081 does not answer/m;
      const { status, json, rules, screen } = await named(away);
      expect(screen.stdout).toMatch(/^NOT healthy: .*169\.254\.0\.2:9081 does not answer/);
      await node.ok("systemctl start hyperpod-agent");
      expect([status.code, status.stdout]).toEqual([1, expect.stringContaining("sport = 9081")]);
      expect(json.healthy).toBe(false);
      expect(json.problems).toContainEqual(expect.objectContaining({ id: "upstream" }));
      expect(rules.stdout).toMatch(away);
      let last = "";
      await until(
        "all is well",
        async () => {
          // Her session may have failed meanwhile: that is over when somebody asks for it again.
          await credentialsOf(node, ROLE, "alice");
          const { code, stdout } = await node.run("imdsproxy service status");
          last = stdout;
          return code === 0;
        },
        2 * MINUTES,
      ).catch((error) => {
        throw new Error(`${error}\n${last}`);
      });
      expect((await node.run("imdsproxy whoami", { as: "alice" })).stdout).not.toContain("last error");
      const well = await node.run("imdsproxy status");
      expect([well.code, well.stdout]).toEqual([0, expect.stringMatching(/^healthy: /)]);
      expect(well.stdout).toMatch(/^ {2}alice .* credentials of ImdsProxyTestRole$/m);
      const sockets = await node.ok(
        "stat -c '%U %a %n' /run/imdsproxy /run/imdsproxy/proxy /run/imdsproxy/proxy/*",
      );
      expect(sockets.trim().split("\n")).toEqual([
        "root 755 /run/imdsproxy",
        "imdsproxy 755 /run/imdsproxy/proxy",
        "imdsproxy 600 /run/imdsproxy/proxy/root.sock",
        "imdsproxy 666 /run/imdsproxy/proxy/users.sock",
      ]);
      // They stand over a restart, and in an upgrade the first proxy or the next one answers.
      await node.ok("systemctl restart imdsproxy");
      expect((await node.run("imdsproxy status", { as: "alice" })).stdout).toMatch(/^healthy: you get /);
      // The proxy dead, then the rules gone as well.
      await node.ok("systemctl stop imdsproxy");
      const dead = await node.run("imdsproxy status");
      expect(dead.stdout).toMatch(
        /^NOT healthy: the proxy is not running[^\n]* \(imdsproxy.service is inactive\)/,
      );
      await node.ok("systemctl stop imdsproxy-repair && iptables -t nat -F");
      expect((await node.run("imdsproxy status")).stdout).toMatch(
        /^NOT healthy: the firewall rules are not as they should be/,
      );
      await node.ok("imdsproxy service uninstall");
      expect((await node.run("test -e /run/imdsproxy")).code).toBe(1);
      expect((await node.run(`${DOWNLOADED} status`)).stdout).toMatch(
        /^NOT healthy: the service is not installed/,
      );
    },
    5 * MINUTES,
  );
});
