import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import { executableOf, getsRole, makeNode, ROLE, roleOf, SETUP } from "./support/node.ts";

/**
 * Changes that end in the middle, or that are carried out in parts: by Ctrl-C, a terminal that is closed, kill -9, a rename that fails,
 * `service install` without `enable`, a umask.
 */

const UNIT = "/etc/systemd/system/imdsproxy.service";
const NO_RULES = "iptables-save | grep -c IMDSPROXY || true";

/** Runs a command in a session of its own, as a terminal does, and sends it what a terminal sends when `until` was said. */
const inSession = (command: string, until: string, what: "SIGINT" | "hang-up") => `
import os, time
pid, terminal = os.forkpty()
if pid == 0:
    os.execv("/bin/sh", ["sh", "-c", "stty cols 100; exec ${command}"])
said = b""
while ${JSON.stringify(until)}.encode() not in said:
    said += os.read(terminal, 65536)
time.sleep(0.3)
if ${what === "SIGINT" ? "True" : "False"}:
    os.write(terminal, b"\\x03")
    try:
        while True: said += os.read(terminal, 65536)
    except OSError: pass
else:
    os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

describeAsRoot("a node on which setup is not carried out to its end", () => {
  const node = bootedMachine(
    () => {
      const node = makeNode();
      node.copyIn(executableOf("9.9.9"), "/root/imdsproxy-next");
      return node;
    },
    async () => {
      await node.ok(SETUP);
    },
  );
  const slowStopOfTheWatch = () =>
    node.ok(
      "mkdir -p /etc/systemd/system/imdsproxy-repair.service.d; printf '[Service]\\nExecStop=/bin/sleep 3\\n' " +
        ">/etc/systemd/system/imdsproxy-repair.service.d/slow.conf; systemctl daemon-reload; systemctl restart imdsproxy-repair",
    );
  const runs = async () =>
    (await node.ok("curl -s http://127.0.0.1:9254/metrics | grep ^imdsproxy_build_info")).trim();

  test("service install and service enable of another `listen`: users are served all along", async () => {
    await node.ok("/root/imdsproxy service install --listen 127.0.0.1:300");
    await getsRole(node, ROLE, "alice");
    await node.ok("/root/imdsproxy service enable");
    await getsRole(node, ROLE, "alice");
    expect(await node.ok("ss -Hltn")).not.toContain("127.0.0.1:254 ");
  });

  test("service install of another version: setup brings it, and enable does", async () => {
    await node.ok("/root/imdsproxy-next service install");
    expect(await runs()).not.toContain('"9.9.9"');
    await node.ok("/root/imdsproxy-next setup");
    expect(await runs()).toContain('"9.9.9"');
    await node.ok("/root/imdsproxy service install && /root/imdsproxy service enable");
    expect(await runs()).not.toContain('"9.9.9"');
    await getsRole(node, ROLE, "alice");
  });

  test("setup that was killed after its commit is completed by setup, the proxy included", async () => {
    await node.run(
      "imdsproxy setup --listen 127.0.0.1:254 >/tmp/said & p=$!; until grep -q 'restart imdsproxy-repair' /tmp/said; do sleep 0.01; done; kill -9 $p; wait",
    );
    await node.ok("imdsproxy setup");
    expect((await node.run("systemctl is-active imdsproxy-handover")).stdout.trim()).not.toBe("active");
    await getsRole(node, ROLE, "alice");
    expect(await node.ok("ss -Hltn")).toContain("127.0.0.1:254 ");
  });

  test("a rename that fails leaves the journal and all that it needs; the next setup completes it", async () => {
    const failed = await node.run(
      `mount --bind ${UNIT} ${UNIT}; /root/imdsproxy setup --state-dir /var/lib/other; c=$?; umount ${UNIT}; exit $c`,
    );
    expect(failed.code).toBe(1);
    await node.ok(`test -e /etc/imdsproxy/.setup-journal.json && test -e ${UNIT}.imdsproxy-new`);
    await node.ok("/root/imdsproxy setup");
    expect(
      await node.ok(`grep ^StateDirectory= ${UNIT}; ls -d /var/lib/imdsproxy /var/lib/other || true`),
    ).toBe("StateDirectory=other\n/var/lib/other\n");
    await node.ok("/root/imdsproxy setup --state-dir /var/lib/imdsproxy");
    expect(await node.ok("ls -d /var/lib/imdsproxy /var/lib/other || true")).toBe("/var/lib/imdsproxy\n");
  });

  test("what was committed and not moved is completed by the next boot, units included, before anything of it starts", async () => {
    await node.ok(`cd /etc/imdsproxy; cp -a config.yaml config.yaml.imdsproxy-new; echo '# new' >>config.yaml.imdsproxy-new
      cd /etc/systemd/system; for u in imdsproxy imdsproxy-iptables; do sed 's/^Description=/&new: /' $u.service >$u.service.imdsproxy-new; done
      echo '["/etc/imdsproxy/config.yaml", "${UNIT}", "/etc/systemd/system/imdsproxy-iptables.service"]' >/etc/imdsproxy/.setup-journal.json; sync`);
    await node.powerCut();
    await node.boot();
    await getsRole(node, ROLE, "alice");
    expect(await node.ok("ls -A /etc/imdsproxy; tail -n 1 /etc/imdsproxy/config.yaml")).toBe(
      "config.schema.json\nconfig.yaml\n# new\n",
    );
    const described = await node.ok(
      "systemctl show -p Description,NeedDaemonReload imdsproxy imdsproxy-iptables",
    );
    expect(described.match(/Description=new: /g)).toHaveLength(2);
    expect(described).not.toContain("NeedDaemonReload=yes");
    await node.ok("systemctl is-active imdsproxy-iptables imdsproxy-repair imdsproxy");
    await node.ok("/root/imdsproxy setup");
  });

  test("where the new proxy does not start, only what that one said is shown", async () => {
    await node.run(
      "(python3 -c 'import socket,time;s=socket.socket();s.bind((\"127.0.0.1\",400));s.listen();time.sleep(600)' >/dev/null 2>&1 & echo $! >/tmp/taker)",
    );
    await until("the port is taken", async () => (await node.ok("ss -Hltn")).includes("127.0.0.1:400 "));
    const { stderr } = await node.run("/root/imdsproxy setup --listen 127.0.0.1:400");
    await node.ok("kill $(cat /tmp/taker)");
    expect(stderr).toContain("the port is taken");
    expect(stderr).not.toContain('"ready"');
  });

  for (const what of ["SIGINT", "hang-up"] as const) {
    test(`${what} while the watch is being stopped: uninstall goes on to its end`, async () => {
      await slowStopOfTheWatch();
      const ran = await node.run("python3 -", {
        input: inSession("/root/imdsproxy service uninstall", "stop imdsproxy-repair", what),
      });
      expect([ran.stdout.trim(), ran.stderr]).toEqual(["0", ""]);
      expect((await node.ok(NO_RULES)).trim()).toBe("0");
      expect((await node.ok("ip rule | grep -c 16925 || true")).trim()).toBe("0");
      expect((await node.run("ls /usr/local/bin/imdsproxy")).code).not.toBe(0);
      await node.ok(
        `rm -rf /etc/systemd/system/imdsproxy-repair.service.d; systemctl daemon-reload; ${SETUP}`,
      );
      await getsRole(node, ROLE, "alice");
    });
  }

  test("SIGINT while setup verifies: it says that all is installed, and leaves no lock", async () => {
    const fault = "/var/lib/stand-in/sts-fault";
    await node.ok(`cat >${fault}.new && mv ${fault}.new ${fault}`, { input: '{"kind":"hang"}' });
    await until("STS hangs", async () => (await node.run(`cat ${fault}.taken`)).stdout.includes("hang"));
    await node.ok("systemctl restart imdsproxy");
    const ran = await node.run("python3 -", {
      input: inSession("/root/imdsproxy setup 2>/tmp/said", "verify as", "SIGINT"),
    });
    await node.ok(`rm ${fault}`);
    expect([
      ran.stdout.trim(),
      await node.ok("cat /tmp/said; ls /run/imdsproxy-setup.lock 2>&1 || true"),
    ]).toEqual([
      "1",
      expect.stringMatching(/^imdsproxy: interrupted while it was verified: [\s\S]*No such file/),
    ]);
    await until("STS answers", async () => !(await node.run(`cat ${fault}.taken`)).stdout.includes("hang"));
    await getsRole(node, ROLE, "alice");
  });

  test("a watch that does not stop: uninstall removes nothing, and says what to do", async () => {
    await node.ok(
      'mkdir -p /tmp/bin; printf \'#!/bin/sh\\ncase "$*" in "stop imdsproxy-repair.service") echo no >&2; exit 1;; esac\\nexec /usr/bin/systemctl.real "$@"\\n\' >/tmp/systemctl; chmod 755 /tmp/systemctl; mv /usr/bin/systemctl /usr/bin/systemctl.real; cp /tmp/systemctl /usr/bin/systemctl',
    );
    const { code, stderr } = await node.run("/root/imdsproxy service uninstall");
    await node.ok("mv /usr/bin/systemctl.real /usr/bin/systemctl");
    expect(code).toBe(1);
    expect(stderr).toContain("the watch over the firewall's rules does not stop");
    expect(Number(await node.ok(NO_RULES))).toBeGreaterThan(5);
    expect(await roleOf(node, "alice")).toBe(ROLE);
    await node.ok("/root/imdsproxy setup");
  });

  test("setup and uninstall under any umask, over directories that were made with it", async () => {
    await node.ok("imdsproxy service uninstall");
    await node.ok(`umask 077; mkdir -p /etc/imdsproxy /run/imdsproxy; ${SETUP}`);
    await getsRole(node, ROLE, "alice");
    await node.ok("umask 077; imdsproxy service uninstall");
    expect(
      await node.ok("ls -d /etc/imdsproxy /run/imdsproxy* /var/lib/imdsproxy* 2>/dev/null || true"),
    ).toBe("");
  });
});
