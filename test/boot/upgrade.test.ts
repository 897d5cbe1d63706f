import { expect, test } from "bun:test";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine, expectNoLeaks } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import {
  addHammers,
  executableOf,
  forgetHammered,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  roleOf,
  SETUP,
} from "./support/node.ts";

/**
 * Clients under load: eight processes ask for credentials, each request on a connection of its own, with the token that
 * they got at the start; a ninth keeps its connection. Every failed try is written down, and every request that failed
 * three times, as a retrying SDK would try it.
 */
const LOAD = `
import os, socket, sys, time
BASE = b"/latest/meta-data/iam/security-credentials/"
def read(s):
    got = b""
    while b"\\r\\n\\r\\n" not in got:
        piece = s.recv(65536)
        if not piece: raise OSError("closed")
        got += piece
    head, body = got.split(b"\\r\\n\\r\\n", 1)
    length = [int(l.split(b":")[1]) for l in head.split(b"\\r\\n") if l.lower().startswith(b"content-length")][0]
    while len(body) < length:
        piece = s.recv(65536)
        if not piece: raise OSError("closed")
        body += piece
    return int(head.split()[1]), body
def dial():
    s = socket.socket()
    s.settimeout(20)
    s.connect(("169.254.169.254", 80))
    return s
def ask(s, method, path, header):
    s.sendall(method + b" " + path + b" HTTP/1.1\\r\\nHost: 169.254.169.254\\r\\n" + header + b"\\r\\n\\r\\n")
    return read(s)
status, token = ask(dial(), b"PUT", b"/latest/api/token", b"X-aws-ec2-metadata-token-ttl-seconds: 21600")
header = b"X-aws-ec2-metadata-token: " + token
def work(keep):
    out = open("/home/alice/load-%d.log" % os.getpid(), "w", buffering=1)
    s = None
    requests = 0
    while not os.path.exists("/tmp/stop-load"):
        requests += 1
        for attempt in range(3):
            try:
                if s is None: s = dial()
                status, body = ask(s, b"GET", BASE + b"${ROLE}", header)
                if not keep:
                    s.close()
                    s = None
                if status == 200 and b"Success" in body: break
                print("try", status, body[:80], file=out)
            except OSError as error:
                s = None
                print("try", "kept" if keep else "new", error, file=out)
            time.sleep(0.1)
        else:
            print("FAILED", file=out)
        time.sleep(0.002)
    print("requests", requests, file=out)
for n in range(9):
    if os.fork() == 0:
        work(n == 8)
        os._exit(0)
for n in range(9): os.wait()
`;

/** The exit code and the first line of status while an upgrade is under way. */
const UNDER_WAY = /^0 an upgrade is under way: /;
/** The same, where what setup itself is at is taken for a trouble. */
const ALARM = /^1 NOT healthy: .*(?: is enabled, |another version|not running|no credentials)/;

describeAsRoot("an upgrade under load", () => {
  const node = bootedMachine(
    () => {
      next = executableOf("9.9.9");
      const node = makeNode();
      node.write("usr/local/lib/load.py", LOAD);
      node.copyIn(next, "/root/imdsproxy-next");
      addHammers(node);
      return node;
    },
    async () => {
      await node.ok(SETUP);
      await forgetHammered(node);
    },
  );
  let next: string;

  const version = async () => (await node.ok("imdsproxy --version")).trim();
  /** The version of the proxy that runs, as its metrics have it. */
  const running = async () =>
    /^imdsproxy_build_info\{version="([^"]+)"\} 1$/m.exec(
      await node.ok("curl -sS http://127.0.0.1:9254/metrics"),
    )?.[1];

  /** Runs something while clients are at work; what they wrote down. */
  const underLoad = async (work: () => Promise<void>) => {
    await node.ok("rm -f /tmp/stop-load /home/alice/load-*");
    const load = node.run("python3 /usr/local/lib/load.py", { as: "alice" });
    const clients = "ls /home/alice | grep -c ^load- || true";
    await until("the clients are at work", async () => (await node.ok(clients)).trim() === "9");
    await work();
    await Bun.sleep(500);
    await node.ok("touch /tmp/stop-load");
    const { stderr } = await load;
    const lines = (await node.ok("cat /home/alice/load-*.log")).split("\n");
    const requests = lines
      .map((line) => Number(/^requests (\d+)/.exec(line)?.[1] ?? 0))
      .reduce((a, b) => a + b, 0);
    return {
      requests,
      tries: lines.filter((line) => line.startsWith("try new") || /^try \d/.test(line)),
      failed: lines.filter((line) => line === "FAILED").length,
      stderr,
    };
  };

  for (const [what, executable, expected] of [
    ["to the next version", "/root/imdsproxy-next", "9.9.9"],
    ["back to the old one", "/root/imdsproxy", ""],
  ] as const) {
    test(`${what}: every request is answered, tokens stay good, the node stays closed`, async () => {
      const before = await version();
      const result = await underLoad(async () => {
        await node.ok("rm -f /tmp/upgraded");
        const looking = node.ok(
          "until [ -e /tmp/upgraded ]; do imdsproxy status >/tmp/screen; echo $? $(head -n 1 /tmp/screen); done",
        );
        const ran = await node.run(`${executable} setup`);
        await node.ok("touch /tmp/upgraded");
        expect([ran.code, ran.stderr]).toEqual([0, ""]);
        expect(ran.stdout).not.toContain("FAIL");
        // Whoever looks meanwhile is told that an upgrade is under way, or that all is well before and after it.
        const firstLines = [...new Set((await looking).trim().split("\n"))];
        expect(firstLines.filter((line) => UNDER_WAY.test(line))).not.toEqual([]);
        expect(firstLines.filter((line) => ALARM.test(line))).toEqual([]);
      });
      expect(result.stderr).toBe("");
      expect(result.requests).toBeGreaterThan(500);
      expect(result.failed).toBe(0);
      // Not only what a retrying SDK would notice: no new connection fails even once.
      expect(result.tries).toEqual([]);
      expect(await version()).not.toBe(before);
      expect(await version()).toContain(expected);
      expect(await version()).toContain(`imdsproxy ${await running()} `);
      await expectNoLeaks(node, 21);
      // systemd forgets a unit when it comes to it, and the watch writes its files beside their places.
      await until("nothing of the handover is left", async () => {
        const left = await node.ok(
          "systemctl list-units --all --no-legend 'imdsproxy-handover*'; ls /run/imdsproxy",
        );
        // `proxy` has the sockets of imdsproxy status.
        return left === "firewall.json\nproxy\nrules.json\n";
      });
    });
  }

  test("a configuration that the new version rejects stops it before anything changes", async () => {
    const state = async () =>
      node.ok(
        "sha256sum /usr/local/bin/* /etc/imdsproxy/* /etc/systemd/system/imdsproxy*; ls -A /usr/local/bin /etc/imdsproxy; " +
          "systemctl show -p MainPID imdsproxy imdsproxy-repair",
      );
    const before = await state();
    await node.ok("printf 'role: nonsense\\nroel: x\\n' > /root/bad.yaml");
    const result = await underLoad(async () => {
      const ran = await node.run("/root/imdsproxy-next setup --config /root/bad.yaml");
      expect(ran.code).toBe(2);
      expect(ran.stderr).toContain("/root/bad.yaml:1: role");
      expect(ran.stderr).toContain("/root/bad.yaml:2: roel");
    });
    expect(result.failed).toBe(0);
    // Not only what a retrying SDK would notice: no new connection fails even once.
    expect(result.tries).toEqual([]);
    expect(await state()).toBe(before);
  });

  test("a configuration with which the new version does not start changes nothing either", async () => {
    const before = await node.ok(
      "sha256sum /usr/local/bin/* /etc/imdsproxy/*; systemctl show -p MainPID imdsproxy",
    );
    // Another program has the port: the configuration is good, the node is not.
    await node.ok(
      "systemd-run --unit=thief python3 -c 'import socket,time; s=socket.socket(); s.bind((\"127.0.0.1\",987)); s.listen(); time.sleep(999)'",
    );
    await until(
      "the thief has the port",
      async () => (await node.ok("ss -Hltn 'sport = :987'")).trim() !== "",
    );
    const ran = await node.run("/root/imdsproxy-next setup --listen 127.0.0.1:987");
    await node.ok("systemctl stop thief");
    expect(ran.code).toBe(1);
    expect(ran.stderr).toContain("the port is taken");
    expect(
      await node.ok("sha256sum /usr/local/bin/* /etc/imdsproxy/*; systemctl show -p MainPID imdsproxy"),
    ).toBe(before);
    expect(await roleOf(node, "alice")).toBe(ROLE);
  });

  test("connections may move to another listener while there are two, and no longer", async () => {
    const setting = "/proc/sys/net/ipv4/tcp_migrate_req";
    let port = 985;
    for (const before of ["0", "1"]) {
      await node.ok(`echo ${before} > ${setting}; rm -f /tmp/seen`);
      // What was read counts where the second proxy ran before and after. It may not be seen at all: then once more.
      while ((await node.run("test -s /tmp/seen")).code !== 0) {
        const watching = node.run(
          `runs() { systemctl is-active -q imdsproxy-handover; }
until [ -e /tmp/stop ]; do runs && value=$(cat ${setting}) && runs && echo $value >>/tmp/seen; sleep 0.02; done`,
        );
        // Another listener is a reason to replace the proxy.
        port = port === 985 ? 986 : 985;
        const ran = await node.run(
          `/root/imdsproxy setup --listen 127.0.0.1:${port}; code=$?; touch /tmp/stop; exit $code`,
        );
        await watching;
        await node.ok("rm /tmp/stop");
        expect([ran.code, ran.stderr]).toEqual([0, ""]);
        expect((await node.ok(`cat ${setting}`)).trim()).toBe(before);
      }
      expect((await node.ok("sort -u /tmp/seen")).trim()).toBe("1");
    }
    await node.ok(`echo 0 > ${setting}`);
  });

  test("another port: the redirect follows without a gap", async () => {
    const result = await underLoad(async () => {
      const ran = await node.run("/root/imdsproxy setup --listen 127.0.0.1:987");
      expect([ran.code, ran.stderr]).toEqual([0, ""]);
    });
    expect(result.failed).toBe(0);
    // Not only what a retrying SDK would notice: no new connection fails even once.
    expect(result.tries).toEqual([]);
    expect(await roleOf(node, "alice")).toBe(ROLE);
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
    expect(await version()).toContain(`imdsproxy ${await running()} `);
  });
});
