import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { AGENT, ALICE, ENTRY, FirewallNode, METADATA, METADATA6, ROOT } from "../firewall/node-support.ts";
import { describeAsRoot } from "../support/root.ts";

/** Rules of others around ours: Docker's, an administrator's, a comment that looks like ours. */
const OTHERS = `
iptables -t nat -N DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables -t nat -A DOCKER -i docker0 -j RETURN
iptables -N DOCKER-USER
iptables -A FORWARD -j DOCKER-USER
iptables -A DOCKER-USER -j RETURN
iptables -A OUTPUT -d 192.0.2.1 -m comment --comment "not -j IMDSPROXY" -j DROP
iptables -A INPUT -p tcp -m tcp --dport 5555 -j ACCEPT
iptables -t mangle -A OUTPUT -p tcp -m tcp --dport 5556 -j MARK --set-xmark 0x1/0xffffffff
ip6tables -A OUTPUT -d 2001:db8::1 -j DROP
`;
const EVERY_TABLE = ["iptables", "ip6tables"].flatMap((program) =>
  ["filter", "nat", "mangle", "raw"].map((table) => `${program} -t ${table} -F; ${program} -t ${table} -X`),
);
/** The second wall outlives every flush: only `remove` takes it away. */
const FLUSH = ["/run/bin/imdsproxy iptables remove >/dev/null", ...EVERY_TABLE].join("\n");
/** What a direct connection to the agent ends with: the second wall's route is of the kind multicast (tcp_v4_connect). */
const CLOSED = "ENETUNREACH";

for (const backend of ["nft", "legacy"] as const) {
  describeAsRoot(`the firewall on iptables-${backend}`, () => {
    let node: FirewallNode;
    const addEntry = (how: "-A OUTPUT" | "-I OUTPUT 1") =>
      node.shell(`iptables -t nat ${how} ${ENTRY.join(" ")}`);
    const asAlice = (host: string, port: string, trick = "") => node.ask(ALICE, "ask", host, port, trick);
    const asRoot = (host: string, port: string) => node.ask(ROOT, "ask", host, port);

    beforeAll(async () => {
      node = await FirewallNode.start({ kind: "hyperpod", iptables: backend });
      await node.shell(FLUSH);
      await node.listen(["127.0.0.1", "254"], ...(node.node.ipv6 ? ([["::1", "254"]] as const) : []));
    });
    afterAll(() => node.node.stop());
    beforeEach(async () => {
      await node.shell(OTHERS);
    });
    afterEach(async () => {
      await node.shell(FLUSH);
    });

    test("uses the backend that this group is about", async () => {
      expect(await node.shell("iptables --version")).toContain(backend === "nft" ? "nf_tables" : "legacy");
    });

    describe("apply", () => {
      const outcome = async () => ({
        alice: await asAlice(...METADATA),
        direct: await asAlice(...AGENT),
        root: await asRoot(...METADATA),
        rootDirect: await asRoot(...AGENT),
      });
      const guarded = { alice: "proxy", direct: CLOSED, root: "other", rootDirect: "other" };

      test("on top of the agent's entry: alice reaches the proxy alone, root the instance role", async () => {
        await addEntry("-A OUTPUT");
        await node.must("apply");
        expect(await outcome()).toEqual(guarded);
      });
      test("without the agent's entry: the same", async () => {
        await node.must("apply");
        expect(await outcome()).toEqual(guarded);
      });
      test("with the entry coming back above ours: alice reaches nothing, and after apply the proxy", async () => {
        await node.must("apply");
        await addEntry("-I OUTPUT 1");
        // The second wall drops what the entry has sent to the agent. Once the watch has put our chain first again, the
        // client's next SYN, a second later, reaches the proxy; a reset would have ended it.
        expect(await outcome()).toEqual({ ...guarded, alice: "ETIMEDOUT" });
        expect((await node.iptables("status")).exitCode).toBe(1);
        await node.must("apply");
        expect(await outcome()).toEqual(guarded);
        expect((await node.iptables("status")).exitCode).toBe(0);
      });
      test("without a proxy: alice is refused, and reaches nothing", async () => {
        await node.must("apply", "--listen", "127.0.0.1:987");
        expect(await outcome()).toEqual({ ...guarded, alice: "ECONNREFUSED" });
      });
      test("twice equals once, and says so", async () => {
        await addEntry("-A OUTPUT");
        await node.must("apply");
        const once = await node.rules();
        expect(await node.must("apply")).toBe("the firewall is in place already: nothing to do\n");
        expect(await node.rules()).toBe(once);
      });
      test("--dry-run prints what iptables-restore would get, and changes nothing", async () => {
        const before = await node.rules();
        const shown = await node.must("apply", "--dry-run");
        expect(await node.rules()).toBe(before);
        // What was printed does what apply does.
        const texts = shown
          .split(/^(?=# )/m)
          .map((text) => /^(# [^\n]*)\n(.*)$/s.exec(text)?.slice(1) ?? [text, ""]);
        expect(texts.map(([head]) => head)).toEqual([
          expect.stringMatching(/iptables-restore -w 10 --noflush$/),
          ...(node.node.ipv6 ? [expect.stringMatching(/ip6tables-restore/)] : []),
          "# nft -f -",
          "# the second wall, by netlink",
        ]);
        for (const [head = "", text = ""] of texts.slice(0, -1)) {
          node.node.write("/run/shown", text);
          await node.shell(`${head.slice(1)} </run/shown`);
        }
        // ip itself refuses a second rule for `local` (NLM_F_EXCL); everything else it takes.
        for (const line of (texts.at(-1)?.[1] ?? "").trimEnd().split("\n")) {
          if (!/ rule (add|del) pref 0 lookup local /.test(line)) {
            await node.shell(
              line.replace(
                / dev if(\d+) /,
                (_, index) => ` dev "$(ip -o link | sed -n 's/^${index}: \\([^:@]*\\).*/\\1/p')" `,
              ),
            );
          }
        }
        expect(await node.must("status").catch(String)).not.toContain("missing");
        await node.must("apply");
        expect(await node.must("apply")).toContain("nothing to do");
      });
      test("puts right whatever somebody did to it", async () => {
        await node.must("apply");
        const right = await node.rules();
        const harms = [
          "iptables -F OUTPUT; iptables -A OUTPUT -d 192.0.2.1 -m comment --comment 'not -j IMDSPROXY' -j DROP",
          "iptables -t nat -A OUTPUT -j IMDSPROXY",
          "iptables -t nat -F IMDSPROXY",
          "iptables -I IMDSPROXY 1 -j RETURN",
          "iptables -A IMDSPROXY -j ACCEPT",
          "iptables -D OUTPUT -j IMDSPROXY; iptables -A OUTPUT -p tcp -j IMDSPROXY",
          "iptables -D OUTPUT -j IMDSPROXY; iptables -F IMDSPROXY; iptables -X IMDSPROXY",
          "iptables -N IMDSPROXY-INPUT; iptables -I INPUT -j IMDSPROXY-INPUT; iptables -A IMDSPROXY -j IMDSPROXY-INPUT",
          "ip6tables -t nat -F",
        ];
        for (const harm of harms) {
          await node.shell(harm);
          expect([harm, (await node.iptables("status")).exitCode]).toEqual([harm, 1]);
          await node.must("apply");
          expect([harm, await node.rules()]).toEqual([harm, right]);
        }
      });
      test("three at the same time make what one makes, and all end well", async () => {
        await node.must("apply");
        const right = await node.rules();
        for (let round = 0; round < 5; round++) {
          await node.must("remove");
          const runs = await Promise.all([1, 2, 3].map(() => node.iptables("apply")));
          expect(runs.map(({ exitCode, stderr }) => (exitCode === 0 ? "" : stderr))).toEqual(["", "", ""]);
          expect(await node.rules()).toBe(right);
        }
      });
      test("needs root, and says so", async () => {
        for (const command of ["apply", "status", "list", "remove", "remove-original"]) {
          const { exitCode, stderr } = await node.iptablesAs(ALICE, [command]);
          expect([command, exitCode]).toEqual([command, 1]);
          expect(stderr).toContain("run it as root: with sudo");
        }
      });
    });

    describe("remove", () => {
      test.each(["leave", "reject", "proxy"])(
        "after containers: %s leaves the rules as they were",
        async (containers) => {
          await addEntry("-A OUTPUT");
          const before = await node.rules();
          node.node.write("/etc/imdsproxy/config.yaml", `containers: ${containers}\n`);
          await node.must("apply");
          await node.shell("rm /etc/imdsproxy/config.yaml");
          expect(await node.rules()).not.toBe(before);
          await node.must("remove");
          expect(await node.rules()).toBe(before);
          expect(await node.must("remove")).toBe("the firewall is not there: nothing to do\n");
          expect(await asAlice(...METADATA)).toBe("other");
        },
      );
    });

    describe("each single step", () => {
      test("does its part, says so the second time, and can be taken back", async () => {
        await addEntry("-A OUTPUT");
        await addEntry("-A OUTPUT");
        const steps = [
          ["remove-original", "restore-original"],
          ["add-proxy", "remove-proxy"],
          ["block-direct", "unblock-direct"],
        ] as const;
        const states: string[] = [];
        for (const [there] of steps) {
          states.push(await node.rules());
          await node.must(there);
          const after = await node.rules();
          expect(after).not.toBe(states.at(-1) ?? "");
          expect(await node.must(there)).toContain("nothing to do");
          expect(await node.rules()).toBe(after);
        }
        expect((await node.iptables("status")).exitCode).toBe(0);
        expect(await asAlice(...METADATA)).toBe("proxy");
        expect(await asAlice(...AGENT)).toBe(CLOSED);
        for (const [there, back] of [...steps].reverse()) {
          await node.must(back);
          expect(await node.must(back)).toContain("nothing to do");
          const before = states.pop() ?? "";
          // Of two copies of the agent's entry one comes back.
          const copy = `-A OUTPUT ${ENTRY.join(" ")}\n`;
          const expected = there === "remove-original" ? before.replace(copy + copy, copy) : before;
          expect(await node.rules()).toBe(expected);
        }
        expect(await asAlice(...METADATA)).toBe("other");
      });
      test("remove-proxy alone leaves alice with nothing", async () => {
        await node.must("apply");
        await node.must("remove-proxy");
        expect(await asAlice(...METADATA)).toBe("ECONNREFUSED");
        expect(await asRoot(...AGENT)).toBe("other");
      });
    });

    describe("list and status", () => {
      test("show our chains, the way to them and the agent's entry, in the spelling of iptables -S", async () => {
        await node.must("apply");
        await addEntry("-A OUTPUT");
        const shown = await node.must("list");
        expect(shown).toContain("# iptables -t nat -S\n");
        expect(shown).toContain("-A OUTPUT -j IMDSPROXY   # position 1\n");
        expect(shown).toContain(`-A OUTPUT ${ENTRY.join(" ")}   # position 3\n`);
        expect(shown).not.toContain("DOCKER");
        expect(await node.must("list", "--all")).toContain("-A DOCKER -i docker0 -j RETURN\n");
        const status = JSON.parse(await node.must("status", "--json"));
        expect(status).toMatchObject({ healthy: true, original: { copies: 1, aboveOurs: false } });
      });
      test("list tells of the rules of every kind, as text and as JSON, and of none of ours once they are removed", async () => {
        const kinds = async () => {
          const shown: { table: string; shownBy?: string }[] = JSON.parse(await node.must("list", "--json"));
          return [...new Set(shown.map(({ table }) => table))].sort();
        };
        await node.must("apply");
        expect(await kinds()).toEqual(["filter", "imdsproxy_limits", "nat", "routing"]);
        const limits = "nft list table inet imdsproxy_limits";
        expect(JSON.parse(await node.must("list", "--json")).at(-1).shownBy).toBe(limits);
        expect(await node.must("list")).toContain(limits);
        await node.must("remove");
        expect([await kinds(), (await node.must("list")).trim()]).toEqual([[], "no rules"]);
      });
      test("say which line of iptables-save cannot be read, where they and the watch would have to guess", async () => {
        await node.must("apply");
        const save = "/run/bin/iptables-save";
        await node.shell(`mv ${save} ${save}.real`);
        node.node.write(
          save,
          `#!/bin/sh\n/usr/sbin/xtables-${backend}-multi iptables-save\nprintf 'odd \\033[2J line\\n'\n`,
        );
        await node.shell(`chmod 755 ${save}`);
        try {
          for (const argv of [["status"], ["watch"]]) {
            const { exitCode, stdout, stderr } = await node.iptables(...argv);
            expect([argv, exitCode, stdout + stderr]).toEqual([
              argv,
              1,
              expect.stringContaining(
                "cannot read the output of iptables-save: a line that is no table, chain or rule of one: odd ?[2J line",
              ),
            ]);
          }
        } finally {
          await node.shell(`mv ${save}.real ${save}`);
        }
      });
    });

    describe("check-direct", () => {
      test("succeeds with a warning where access is open, and fails where it is closed, and says why that is good", async () => {
        await addEntry("-A OUTPUT");
        for (const who of [ALICE, ROOT]) {
          const open = await node.iptablesAs(who, ["check-direct"]);
          expect([open.exitCode, open.stderr]).toEqual([
            0,
            expect.stringContaining("WARNING: direct access is OPEN"),
          ]);
          expect(open.stdout).toMatch(/^ {2}OPEN {5}169\.254\.0\.2:9081: answers, and names the role /m);
        }
        const listen = ["--listen", "127.0.0.1:987"];
        await node.must("apply", ...listen);
        const proxy = await node.node.startProxy({ port: 987, flags: listen });
        try {
          for (const who of [ALICE, ROOT]) {
            const closed = await node.iptablesAs(who, ["check-direct", ...listen]);
            expect([closed.exitCode, closed.stderr]).toEqual([1, expect.stringContaining("That is good")]);
            expect(closed.stdout).toMatch(/^ {2}closed {3}169\.254\.0\.2:9081: connection refused/m);
            expect(closed.stdout).toMatch(/^ {2}closed {3}169\.254\.169\.254:80: redirected to the proxy/m);
          }
          // An impostor at the proxy's port is not taken for the proxy.
          await node.must("apply");
          const impostor = await node.iptablesAs(ALICE, ["check-direct"]);
          expect([impostor.exitCode, impostor.stdout]).toEqual([
            0,
            expect.stringMatching(/^ {2}OPEN {5}169\.254\.169\.254:80: answers/m),
          ]);
        } finally {
          await proxy.stop();
        }
      });
      test("tries as the user who called sudo, else as nobody, and never as somebody exempt", async () => {
        await node.must("apply", "--listen", "127.0.0.1:987");
        const flags = ["check-direct", "--listen", "127.0.0.1:987"];
        const bySudo = await node.iptablesAs(ROOT, flags, { SUDO_UID: "2001" });
        expect([bySudo.exitCode, bySudo.stdout]).toEqual([1, expect.stringContaining("as uid 2001,")]);
        expect((await node.iptablesAs(ROOT, flags)).stdout).toContain("as uid 65534,");
        // Her group is another number than her own. The rule without a target counts the packets of processes with that gid.
        const ofGroup = "OUTPUT -m owner --gid-owner 3001";
        await node.shell(`iptables -I ${ofGroup}`);
        await node.iptablesAs(ROOT, flags, { SUDO_UID: "2001", SUDO_GID: "3001" });
        const counted = await node.shell("iptables -vxnL OUTPUT 1");
        await node.shell(`iptables -D ${ofGroup}`);
        expect(Number(/^\s*(\d+)/m.exec(counted)?.[1])).toBeGreaterThan(0);
        node.node.write("/etc/imdsproxy/config.yaml", "exempt: [root, alice]\n");
        expect(await node.iptablesAs(ALICE, flags)).toMatchObject({ exitCode: 2 });
        expect((await node.iptablesAs(ROOT, flags, { SUDO_UID: "2001" })).stdout).toContain("as uid 65534,");
        await node.shell("rm /etc/imdsproxy/config.yaml");
      });
    });

    describe("exempt users", () => {
      test("reach the instance role, and cease to when they are no longer exempt", async () => {
        node.node.write("/etc/imdsproxy/config.yaml", "exempt: [root, alice]\n");
        await node.must("apply");
        expect([await asAlice(...METADATA), await asAlice(...AGENT)]).toEqual(["other", "other"]);
        await node.shell("rm /etc/imdsproxy/config.yaml");
        await node.must("apply");
        expect([await asAlice(...METADATA), await asAlice(...AGENT)]).toEqual(["proxy", CLOSED]);
      });
      test("who are unknown are an error, and the rules stand without them", async () => {
        node.node.write("/etc/imdsproxy/config.yaml", "exempt: [root, nobody-here]\n");
        const { exitCode, stderr } = await node.iptables("apply");
        await node.shell("rm /etc/imdsproxy/config.yaml");
        expect([exitCode, stderr]).toEqual([2, expect.stringContaining('there is no account "nobody-here"')]);
        expect(await asAlice(...AGENT)).toBe(CLOSED);
      });
    });

    describe("IPv6", () => {
      test("is guarded like IPv4", async () => {
        if (!node.node.ipv6) return;
        expect([await asAlice(...METADATA6), await asRoot(...METADATA6)]).toEqual(["other", "other"]);
        await node.must("apply");
        expect([await asAlice(...METADATA6), await asRoot(...METADATA6)]).toEqual(["proxy", "other"]);
        await node.shell("ip6tables -t nat -F");
        expect([await asAlice(...METADATA6), await asRoot(...METADATA6)]).toEqual(["ECONNREFUSED", "other"]);
      });
      test("IPv4 through an IPv6 socket is IPv4", async () => {
        if (!node.node.ipv6) return;
        await node.must("apply");
        expect(await asAlice("::ffff:169.254.169.254", "80")).toBe("proxy");
        expect(await asAlice("::ffff:169.254.0.2", "9081")).toBe(CLOSED);
        expect(await asAlice("::ffff:127.0.0.1", "254")).toBe("ECONNREFUSED");
      });
      test("absent ip6tables do not stop IPv4, and are told", async () => {
        const multi = `/usr/sbin/xtables-${backend}-multi`;
        const said = await node.shell(`
          cp ${multi} /run/multi
          unshare --mount sh -euc '
            mount -t tmpfs none /usr/sbin
            for name in iptables iptables-save iptables-restore; do
              cp /run/multi /usr/sbin/$name
              ln -sf /usr/sbin/$name /run/bin/$name
            done
            mkdir -p /run/hidden && mv /run/bin/ip6tables* /run/hidden/
            trap "mv /run/hidden/ip6tables* /run/bin/" EXIT
            imdsproxy iptables apply 2>&1
            imdsproxy iptables status 2>&1
          '
          for name in iptables iptables-save iptables-restore; do
            ln -sf /usr/sbin/iptables-${backend}$(echo $name | sed s/iptables//) /run/bin/$name
          done`);
        expect(said).toContain("note: IPv6 is not guarded: there is no ip6tables-save here");
        expect(said).toContain("the firewall is in place\n");
        expect(said).toContain("the firewall is as it should be\n");
        expect(await asAlice(...METADATA)).toBe("proxy");
      });
      test("an absent iptables is an error that says what to install", async () => {
        const { exitCode, stderr } = await node.node.exec({
          ...ROOT,
          argv: [
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /usr/sbin; PATH=/usr/bin /run/bin/imdsproxy iptables apply",
          ],
        });
        expect([exitCode, stderr]).toEqual([1, expect.stringContaining("install iptables")]);
      });
    });

    describe("an attacker", () => {
      beforeEach(() => node.must("apply"));
      test.each(["", "mptcp", "loopback-source", "node-source", "device", "fast-open", "source-route"])(
        "gets no connection to the agent by the trick %p",
        async (trick) => {
          expect(await asAlice(...AGENT, trick)).toMatch(
            /^E(CONNREFUSED|TIMEDOUT|CONNRESET|HOSTUNREACH|NETUNREACH|PERM)$/,
          );
        },
      );
      test.each(["mptcp", "loopback-source", "node-source", "device", "fast-open", "source-route"])(
        "gets at most the proxy from the metadata address by the trick %p",
        async (trick) => {
          expect(await asAlice(...METADATA, trick)).not.toBe("other");
        },
      );
      test("is root in a user namespace, and still alice to the firewall", async () => {
        const argv = (host: string, port: string) => [
          "unshare",
          "--user",
          "--map-root-user",
          "/usr/bin/python3",
          "/run/repository/test/firewall/probe.py",
          "ask",
          host,
          port,
        ];
        const run = async (host: string, port: string) =>
          (await node.node.exec({ ...ALICE, argv: argv(host, port) })).stdout.trim();
        expect([await run(...METADATA), await run(...AGENT)]).toEqual(["proxy", CLOSED]);
      });
      test("does not reach the listener but through the redirect", async () => {
        for (const address of ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"]) {
          if (address.includes(":") && !node.node.ipv6) continue;
          expect([address, await asAlice(address, "254")]).toEqual([address, "ECONNREFUSED"]);
        }
        expect(await asRoot("127.0.0.1", "254")).toBe("proxy");
      });
      test("gets nothing while the redirect is away, untracked packets included", async () => {
        await node.shell("iptables -t nat -F");
        expect(await asAlice(...METADATA)).toBe("ECONNREFUSED");
        await node.must("apply");
        await node.shell("iptables -t raw -A OUTPUT -d 169.254.169.254 -j NOTRACK");
        expect(await asAlice(...METADATA)).not.toBe("other");
        expect(await asAlice(...METADATA)).not.toBe("proxy");
      });
      test("loses the connections that were open before the rules came, and root keeps them", async () => {
        await node.must("remove");
        await addEntry("-A OUTPUT");
        for (const target of [METADATA, AGENT, ...(node.node.ipv6 ? [METADATA6] : [])]) {
          const directory = await node.directory();
          const held = [ALICE, ROOT].map((who) => node.probe(who, "hold", ...target, directory));
          await node.waitFor(`${directory}/ready-0`);
          await node.waitFor(`${directory}/ready-2001`);
          await node.must("apply");
          await node.shell(`touch ${directory}/go`);
          const [alice, root] = await Promise.all(held.map(async ({ done }) => (await done).stdout.trim()));
          // Ended by the kernel on behalf of the second wall, before any packet of hers could meet a rule.
          expect([target, alice, root]).toEqual([target, "ECONNABORTED", "other"]);
          await node.must("remove");
        }
      });
    });
  });
}
