import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import { mustExec, startTestNode, TEST_ROLE } from "../support/node.ts";
import { applyRules, assumed, eventually, getWithToken, sdkArn, testConfig } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";
import { withoutNetlink } from "../support/without-netlink.ts";

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
const CONFIG = "/etc/imdsproxy/config.yaml";
const SERVE = ["/run/bin/imdsproxy", "serve"] as const;

describeAsRoot("serve", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    node = await startTestNode();
    await applyRules(node);
  });
  afterAll(() => node?.stop());
  beforeEach(async () => {
    await node.sts.set({ fault: { kind: "none" } });
    await node.sts.clearLog();
    node.write(CONFIG, JSON.stringify(testConfig(node)));
    await mustExec(node, ROOT, [
      "sh",
      "-c",
      `rm -rf /var/lib/imdsproxy; chown root:root ${CONFIG}; chmod 644 ${CONFIG}`,
    ]);
  });

  const fails = async (argv: readonly string[], who: { user: string } = ROOT) => {
    const { exitCode, stdout, stderr } = await node.exec({ ...who, argv });
    return { exitCode, said: stdout + stderr };
  };

  describe("does not start, and says why", () => {
    test("with a wrong key: exit 2, the key, what it found and what would be right", async () => {
      node.write(CONFIG, "role: arn:aws:iam::842413447717:role/X\nlisten: 127.0.0.1:99999\n");
      const { exitCode, said } = await fails(SERVE);
      expect(exitCode).toBe(2);
      expect(said).toContain(`${CONFIG}:2: listen must be an IP address and a port`);
      expect(said).toContain('found "127.0.0.1:99999"');
    });
    test("with a wrong flag: exit 2 and the flag", async () => {
      const { exitCode, said } = await fails([...SERVE, "--role-arn", "ImdsProxyTestRole"]);
      expect(exitCode).toBe(2);
      expect(said).toContain("--role-arn must be the ARN of an IAM role");
    });
    test("with a flag that it does not have: exit 2 and those that it has", async () => {
      const { exitCode, said } = await fails([...SERVE, "--rolearn", TEST_ROLE]);
      expect(exitCode).toBe(2);
      expect(said).toContain("--rolearn");
      expect(said).toContain("--role-arn");
    });
    test("without the configuration that it was told: exit 2 and the path", async () => {
      const { exitCode, said } = await fails([...SERVE, "--config", "/etc/nothing.yaml"]);
      expect(exitCode).toBe(2);
      expect(said).toContain("/etc/nothing.yaml: no such file");
    });
    test("on a port that is taken: exit 1 and the port", async () => {
      const taker = node.spawn({
        ...ROOT,
        argv: ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "254"],
        timeoutMs: 0,
      });
      await eventually("the port is taken", async () =>
        (await mustExec(node, ROOT, ["ss", "-ltn"])).includes(":254"),
      );
      const { exitCode, said } = await fails(SERVE);
      taker.kill("SIGTERM");
      await taker.done;
      expect(exitCode).toBe(1);
      expect(said).toContain("127.0.0.1:254: the port is taken");
    });
    test("without CAP_NET_ADMIN: exit 1 and the capability", async () => {
      const { exitCode, said } = await fails([
        "setpriv",
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
        ...SERVE,
      ]);
      expect(exitCode).toBe(1);
      expect(said).toContain("CAP_NET_ADMIN");
    });
    test("without CAP_NET_BIND_SERVICE: exit 1 and the capability", async () => {
      const argv = [
        "setpriv",
        "--bounding-set",
        "-net_bind_service",
        "--inh-caps",
        "-net_bind_service",
        ...SERVE,
      ];
      const { exitCode, said } = await fails(argv);
      expect(exitCode).toBe(1);
      expect(said).toContain("CAP_NET_BIND_SERVICE");
    });
    test("as an ordinary user: exit 1", async () => {
      const { exitCode, said } = await fails([...SERVE, "--state-dir", "/tmp/mine"], ALICE);
      expect(exitCode).toBe(1);
      expect(said).toContain("CAP_NET_ADMIN");
    });
    test("where the kernel has no inet_diag: exit 1 and what is missing", async () => {
      const { exitCode, said } = await fails(withoutNetlink(4, SERVE));
      expect(exitCode).toBe(1);
      expect(said).toContain("sock_diag");
      expect(said).toContain("tcp_diag");
    });
    test("where connection tracking cannot be asked: exit 1 and what is missing", async () => {
      const { exitCode, said } = await fails(withoutNetlink(12, SERVE));
      expect(exitCode).toBe(1);
      expect(said).toContain("connection tracking");
      expect(said).toContain("nf_conntrack_netlink");
    });
    test("where loopback is down: exit 1, and that it is loopback", async () => {
      const { exitCode, said } = await fails(["unshare", "--net", ...SERVE]);
      expect(exitCode).toBe(1);
      expect(said).toContain("cannot connect to a port of our own on 127.0.0.1");
      expect(said).toContain("the interface lo must be up");
    });
    test("in a user namespace, where the kernel does not tell users apart", async () => {
      const { exitCode, said } = await fails(["unshare", "--user", "--map-root-user", ...SERVE]);
      expect(exitCode).toBe(1);
      expect(said).toContain("user namespace");
    });
    test("with a configuration that others can change", async () => {
      await mustExec(node, ROOT, ["chmod", "666", CONFIG]);
      const { exitCode, said } = await fails(SERVE);
      expect(exitCode).toBe(1);
      expect(said).toContain(`${CONFIG} can be changed by others`);
    });
    test("with a state directory that others can change", async () => {
      await mustExec(node, ROOT, ["install", "-d", "-m", "0777", "/var/lib/imdsproxy"]);
      const { exitCode, said } = await fails(SERVE);
      expect(exitCode).toBe(1);
      expect(said).toContain("/var/lib/imdsproxy can be written by others");
    });
    test("where rules ask for Slurm jobs and there is no cgroup v2", async () => {
      const rules = [{ name: "jobs", match: { slurmJob: true }, role: TEST_ROLE }];
      node.write(CONFIG, JSON.stringify(testConfig(node, { rules })));
      // The machine may have cgroup v2 mounted, or not: a mount table without it is what counts.
      const hide =
        "for at in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do umount -l $at; done; exec /run/bin/imdsproxy serve";
      const { exitCode, said } = await fails(["unshare", "--mount", "sh", "-c", hide]);
      expect(exitCode).toBe(1);
      expect(said).toContain("cgroup v2 is not mounted");
    });
  });

  test("warns of a port above 1023, which users could take in its absence", async () => {
    const proxy = await node.startProxy({ flags: ["--listen", "127.0.0.1:8988"], port: 8988 });
    await proxy.stop();
    await eventually("the log says so", () => proxy.output().includes("any user can take it"));
  });

  describe("tries the default role at the start", () => {
    test("and says that it can be assumed", async () => {
      const proxy = await node.startProxy();
      await eventually("it says so", () => proxy.output().includes("the default role can be assumed"));
      await proxy.stop();
      expect(await assumed(node)).toEqual(["imdsproxy-check@i-0123456789abcdef0"]);
    });
    test("and names the STS that it cannot reach", async () => {
      const proxy = await node.startProxy({ flags: ["--sts-endpoint", "http://127.0.0.1:9"] });
      await eventually("it says so", () => proxy.output().includes("could not be tried for now"));
      await eventually("the log says so", () => proxy.output().includes("http://127.0.0.1:9"));
      await proxy.stop();
    });
    test("and says what to add where it cannot, serves all the same, and heals", async () => {
      await node.sts.set({ fault: { kind: "error", status: 403, code: "AccessDenied" } });
      const proxy = await node.startProxy();
      await eventually("it says so", () => proxy.output().includes("the default role cannot be assumed"));
      await eventually("the log says so", () => proxy.output().includes("sts:AssumeRole"));
      await eventually("the log says so", () => proxy.output().includes(TEST_ROLE));
      // Bob, since a token's PUT asks for the session of whoever wants it, and the denial of that is remembered.
      expect((await getWithToken(node, { user: "bob" }, "/latest/meta-data/instance-id")).status).toBe(200);
      await node.sts.set({ fault: { kind: "none" } });
      expect(await sdkArn(node, ALICE)).toContain("assumed-role/ImdsProxyTestRole/alice@");
      await proxy.stop();
    });
  });

  describe("says as much as --log-level lets it, whatever the file has:", () => {
    const level = (flags: readonly string[], log: object) =>
      node.startProxy({ flags, config: testConfig(node, { log }) });
    test("with debug a line for each request, without it none", async () => {
      const quiet = await level([], { level: "info" });
      await getWithToken(node, ALICE, "/latest/meta-data/instance-id");
      await quiet.stop();
      expect(quiet.output()).toContain('"ready"');
      expect(quiet.output()).not.toContain('"level":"debug"');

      const proxy = await level(["--log-level", "debug"], { level: "error" });
      await getWithToken(node, ALICE, "/latest/meta-data/instance-id");
      await eventually("the request has its line", () =>
        proxy
          .output()
          .split("\n")
          .some((line) => line.includes('"level":"debug"') && line.includes('"subject":2001')),
      );
      await proxy.stop();
    });
    test("with warn not that it is ready, and warnings all the same", async () => {
      node.write(
        CONFIG,
        JSON.stringify(testConfig(node, { listen: "127.0.0.1:2254", log: { level: "debug" } })),
      );
      const script = `$1 serve --log-level warn 2>/tmp/warn.log & pid=$!
        until ss -Hltn 'sport = :2254' | grep -q .; do kill -0 $pid || exit 3; sleep 0.05; done
        kill -TERM $pid; wait $pid; cat /tmp/warn.log`;
      const said = await mustExec(node, ROOT, ["sh", "-c", script, "sh", SERVE[0]]);
      expect(said).toContain("the port is above 1023");
      expect(said).not.toMatch(/"level":"(?:info|debug)"/);
    });
    test("with another word: exit 2, and the words that there are", async () => {
      const { exitCode, said } = await fails([...SERVE, "--log-level", "verbose"]);
      expect([exitCode, said]).toEqual([2, expect.stringContaining("must be debug, info, warn or error")]);
    });
  });

  describe("reads its configuration again at SIGHUP", () => {
    const refuseAlice = [{ name: "not alice", match: { user: "alice" }, role: "none" }];
    const roleList = async () =>
      (await getWithToken(node, ALICE, "/latest/meta-data/iam/security-credentials/")).status;

    test("and the new rules decide", async () => {
      const proxy = await node.startProxy();
      expect(await roleList()).toBe(200);
      node.write(CONFIG, JSON.stringify(testConfig(node, { rules: refuseAlice })));
      process.kill(proxy.pid, "SIGHUP");
      await eventually("alice is refused", async () => (await roleList()) === 404);
      await proxy.stop();
    });
    test("and a file that others can change by now changes nothing, and is said", async () => {
      const proxy = await node.startProxy();
      node.write(CONFIG, JSON.stringify(testConfig(node, { rules: refuseAlice })));
      chmodSync(node.path(CONFIG), 0o666);
      process.kill(proxy.pid, "SIGHUP");
      await eventually("it says so", () => proxy.output().includes("the previous one stays in effect"));
      await eventually("the log says so", () =>
        proxy.output().includes(`${CONFIG} can be changed by others: its mode is 666`),
      );
      expect(await roleList()).toBe(200);
      chmodSync(node.path(CONFIG), 0o644);
      await proxy.stop();
    });
    test("and says of containers and exempt that they wait for a restart, which the rules do not", async () => {
      const proxy = await node.startProxy();
      const changed = { containers: "proxy", exempt: ["root", "alice"] };
      node.write(CONFIG, JSON.stringify(testConfig(node, changed)));
      process.kill(proxy.pid, "SIGHUP");
      await eventually("it says so", () => proxy.output().includes("containers, exempt"));
      await eventually("the log says so", () => proxy.output().includes("at its next start"));
      await eventually("the log says so", () => proxy.output().includes("systemctl restart imdsproxy"));
      await proxy.stop();
    });
    test("also where it comes before the proxy is ready: it is remembered", async () => {
      // From the moment at which SIGHUP is caught (bit 0 of SigCgt, proc(5)) until the listener is there. The agent is late, so
      // that this takes a second; where this machine took longer to look, it is tried again.
      const script = `
        imdsproxy=$1; $imdsproxy serve 2>/tmp/early.log & pid=$!
        until grep -q '^SigCgt:.*[13579bdf]$' /proc/$pid/status; do kill -0 $pid || exit 3; done
        kill -HUP $pid; first=$(ss -Hltn 'sport = :254' | wc -l)
        until grep -q '"ready"' /tmp/early.log; do kill -HUP $pid || exit 4; sleep 0.01; done
        until grep -q 'loaded again' /tmp/early.log; do kill -0 $pid || exit 5; sleep 0.01; done
        kill -TERM $pid; wait $pid; echo "exit $? listening $first"`;
      await node.agent?.set({ delayMs: 1_500 });
      try {
        await eventually("a SIGHUP came before the listener was there", async () => {
          const told = await mustExec(node, ROOT, ["sh", "-c", script, "sh", SERVE[0]]);
          expect(told.trim()).toMatch(/^exit 0 listening [01]$/);
          return told.trim().endsWith(" 0");
        });
      } finally {
        await node.agent?.set({ delayMs: 0 });
      }
    }, 240_000);
    test("and a bad file changes nothing, and is said", async () => {
      const proxy = await node.startProxy();
      node.write(CONFIG, "rules: nonsense\n");
      process.kill(proxy.pid, "SIGHUP");
      await eventually("it says so", () => proxy.output().includes("the previous one stays in effect"));
      await eventually("the log says so", () => proxy.output().includes(`${CONFIG}:1: rules must be a list`));
      expect(await roleList()).toBe(200);
      await proxy.stop();
    });
  });
});
