import { expect, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import type { Report } from "../../src/doctor/types.ts";
import { NO_LATER_THREADS } from "../../src/platform/engine-options.ts";
import { buildDirectoryModule } from "../support/nss/directory.ts";
import { describeAsRoot } from "../support/root.ts";
import { bootedMachine } from "./support/booted.ts";
import { until } from "./support/machine.ts";
import {
  credentialsOf,
  getsRole,
  INSTANCE_ROLE,
  makeNode,
  ROLE,
  ROLE_ARN,
  roleOf,
  SETUP,
  SOURCE,
} from "./support/node.ts";

const OURS = ["imdsproxy.service", "imdsproxy-iptables.service", "imdsproxy-repair.service"];

const HAVE_GCC = Bun.which("gcc") !== null;

describeAsRoot("the units on a booted node", () => {
  /** What the first setup on it said. */
  let firstSetup = "";
  const node = bootedMachine(
    () => makeNode(),
    async () => {
      firstSetup = await node.ok(SETUP);
      await node.reboot();
    },
  );

  const property = async (unit: string, name: string) =>
    (await node.ok(`systemctl show -P ${name} ${unit}`)).trim();
  /** Microseconds since boot at which a unit was up. */
  const upAt = async (unit: string) => Number(await property(unit, "ActiveEnterTimestampMonotonic"));
  const startedAt = async (unit: string) => Number(await property(unit, "InactiveExitTimestampMonotonic"));

  test("setup recommends observe where nothing was ever observed, and to a file or a pipe says each step in one line", () => {
    expect(firstSetup).toMatch(
      /^note: nothing was ever observed on this node: imdsproxy observe --for 24h /m,
    );
    expect(firstSetup).toMatch(/^systemctl (?:re)?start imdsproxy\.service$/m);
    expect(firstSetup).not.toMatch(/[\r\u001b]/);
  });

  for (const unit of OURS) {
    // It counts PrivateTmp= and PrivateDevices= with 0.2 each, and cannot know that InaccessiblePaths= stands for the first: with
    // either, the unit does not start on a disk that a user has filled.
    test(`systemd-analyze security ${unit} is below 2.3`, async () => {
      const text = await node.ok(`systemd-analyze security ${unit} --no-pager`);
      expect(Number(/exposure level for \S+: ([\d.]+)/.exec(text)?.[1])).toBeLessThan(2.3);
    });

    test(`systemd-analyze verify has nothing to say of ${unit}`, async () => {
      const { stdout, stderr } = await node.run(`systemd-analyze verify ${unit}`);
      expect(`${stdout}${stderr}`).not.toContain("imdsproxy");
    });
  }

  test("the rules are up before sshd, slurmd, cron, logind and user sessions start, and before the network", async () => {
    const rules = await upAt("imdsproxy-iptables");
    expect(rules).toBeGreaterThan(0);
    for (const unit of [
      "ssh",
      "slurmd",
      "cron",
      "systemd-logind",
      "systemd-user-sessions",
      "node-network",
      "dbus",
    ]) {
      expect([unit, (await startedAt(`${unit}.service`)) > rules]).toEqual([unit, true]);
    }
  });

  test("the watch has seen them, and the proxy listens, before users come in", async () => {
    for (const ours of ["imdsproxy-repair", "imdsproxy"]) {
      const up = await upAt(ours);
      for (const unit of ["ssh", "slurmd", "cron", "systemd-logind", "systemd-user-sessions"]) {
        expect([ours, unit, (await startedAt(`${unit}.service`)) >= up]).toEqual([ours, unit, true]);
      }
    }
  });

  test("no job had to be thrown out of the boot to break a cycle", async () => {
    expect(
      await node.ok("journalctl -b --no-pager | grep -iE 'ordering cycle|deleted to break' || true"),
    ).toBe("");
  });

  test("the proxy runs as its own account, with two capabilities and no core files", async () => {
    const pid = await property("imdsproxy.service", "MainPID");
    const status = await node.ok(`cat /proc/${pid}/status /proc/${pid}/limits`);
    const account = (await node.ok("id -u imdsproxy")).trim();
    expect(status).toMatch(new RegExp(`^Uid:\\t${account}\\t${account}\\t${account}\\t${account}$`, "m"));
    // CAP_NET_BIND_SERVICE is 10, CAP_NET_ADMIN 12 (linux/capability.h).
    for (const set of ["CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
      expect(status).toMatch(new RegExp(`^${set}:\\t0000000000001400$`, "m"));
    }
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(status).toMatch(/^Max core file size +0 +0/m);
  });

  (HAVE_GCC ? test : test.skip)(
    "a directory's group that is called as the service's opens nothing, and does not stop it",
    async () => {
      const library = buildDirectoryModule({ service: "hesiod", directory: "/opt/directory" });
      const conf = await node.ok("cat /etc/nsswitch.conf");
      const account = (await node.ok("id -u imdsproxy; awk -F: '/^imdsproxy:/ { print $4 }' /etc/passwd"))
        .trim()
        .split("\n");
      await node.ok("base64 -d >/opt/libnss.so; mkdir /opt/directory", {
        input: readFileSync(library).toString("base64"),
      });
      rmSync(dirname(library), { recursive: true });
      await node.ok(
        `for file in /lib/*/libnss_hesiod.so.2; do mount --bind /opt/libnss.so "$file"; done; cd /opt/directory
        echo imdsproxy:x:7000:alice >group; echo eve:x:${account[0]}:7000::/:/bin/sh >passwd; echo up >mode
        sed -i 's/^group:.*/group: hesiod files/; s/^passwd:.*/passwd: files hesiod/' /etc/nsswitch.conf
        systemctl restart imdsproxy`,
      );
      try {
        expect(await node.ok("getent group imdsproxy; id -Gn", { as: "alice" })).toBe(
          "imdsproxy:x:7000:alice\nalice imdsproxy\n",
        );
        await getsRole(node, ROLE, "alice");
        const pid = await property("imdsproxy.service", "MainPID");
        expect(await node.ok(`stat -c '%u %g' /proc/${pid}`)).toBe(`${account.join(" ")}\n`);
        for (const path of [
          "/etc/imdsproxy/config.yaml",
          "/var/lib/imdsproxy/token.key",
          "/var/lib/imdsproxy",
        ])
          expect([path, (await node.run(`cat ${path}; ls ${path}/`, { as: "alice" })).stdout]).toEqual([
            path,
            "",
          ]);
      } finally {
        await node.ok(
          "cat >/etc/nsswitch.conf; umount /lib/*/libnss_hesiod.so.2; systemctl restart imdsproxy",
          {
            input: conf,
          },
        );
      }
    },
  );

  test("names are asked for by a process that has no capability and starts no thread later; killed, it is replaced", async () => {
    const pid = await property("imdsproxy.service", "MainPID");
    // The thread's name is the executable's, which both have: by the argument.
    const helper = async () => (await node.ok(`pgrep -P ${pid} -f resolve-names || true`)).trim();
    const groups = async () =>
      (JSON.parse(await node.ok("imdsproxy whoami --json", { as: "alice" })) as { groups: string[] }).groups;
    await node.ok("groupadd -f crew; gpasswd -a alice crew");
    await until("the group is seen", async () => (await groups()).includes("crew"));
    const first = await helper();
    expect(first).toMatch(/^\d+$/);
    const status = await node.ok(`cat /proc/${first}/status`);
    for (const set of ["CapPrm", "CapEff", "CapAmb"])
      expect(status).toMatch(new RegExp(`^${set}:\t0000000000000000$`, "m"));
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    const environment = (await node.ok(`tr '\\0' '\\n' </proc/${first}/environ`)).split("\n");
    for (const [name, value] of Object.entries(NO_LATER_THREADS))
      expect(environment).toContain(`${name}=${value}`);
    await node.ok(`kill -9 ${first}; gpasswd -d alice crew`);
    await until("the change is seen", async () => !(await groups()).includes("crew"));
    expect(await helper()).not.toBe(first);
  });

  test("reload takes a changed role from the file, in the same process", async () => {
    const pid = await property("imdsproxy.service", "MainPID");
    await node.ok(
      "cp -p /etc/imdsproxy/config.yaml /root/; sed -i 's/ImdsProxyTestRole/Reloaded/' /etc/imdsproxy/config.yaml",
    );
    await node.ok("systemctl reload imdsproxy");
    await until("the role has changed", async () => (await roleOf(node, "alice")) === "Reloaded");
    await node.ok("cp -p /root/config.yaml /etc/imdsproxy/; systemctl reload imdsproxy");
    await until("the role is back", async () => (await roleOf(node, "alice")) === ROLE);
    expect(await property("imdsproxy.service", "MainPID")).toBe(pid);
  });

  test("the watchdog restarts a proxy that hangs", async () => {
    const before = await property("imdsproxy.service", "MainPID");
    await node.ok(
      "mkdir -p /run/systemd/system/imdsproxy.service.d; " +
        "printf '[Service]\\nWatchdogSec=5s\\n' > /run/systemd/system/imdsproxy.service.d/quick.conf; " +
        "systemctl daemon-reload; systemctl restart imdsproxy",
    );
    const pid = await property("imdsproxy.service", "MainPID");
    expect(pid).not.toBe(before);
    await node.ok(`kill -STOP ${pid}`);
    await until("another has its place", async () => {
      const now = await property("imdsproxy.service", "MainPID");
      return now !== pid && now !== "0";
    });
    await getsRole(node, ROLE, "alice");
    expect(await roleOf(node)).toBe(INSTANCE_ROLE);
    await node.ok(
      "rm /run/systemd/system/imdsproxy.service.d/quick.conf; systemctl daemon-reload; systemctl restart imdsproxy",
    );
  });

  test("what the service may not do, it cannot", async () => {
    const pid = await property("imdsproxy.service", "MainPID");
    const inside = (command: string) =>
      node.run(
        `nsenter --target ${pid} --mount -- setpriv --reuid=imdsproxy --regid=imdsproxy --clear-groups sh -c '${command}'`,
      );
    for (const path of [
      "/etc/x",
      "/usr/local/bin/x",
      "/run/x",
      "/run/imdsproxy/x",
      "/var/lib/x",
      "/etc/imdsproxy/config.yaml",
    ]) {
      expect([path, (await inside(`echo x > ${path}`)).code === 0]).toEqual([path, false]);
    }
    expect((await inside("ls -A /home /root")).stdout).not.toContain("alice");
    expect((await inside("echo x > /var/lib/imdsproxy/probe && rm /var/lib/imdsproxy/probe")).code).toBe(0);
  });

  test("doctor finds nothing on it, and then what units of others give away", async () => {
    // IAM is not to be had here; at an address of the node's own that is known at once.
    await node.ok("echo '127.0.0.1 iam.amazonaws.com' >> /etc/hosts");
    const doctor = async () => {
      const { code, stdout, stderr } = await node.run("imdsproxy doctor --json");
      if (stderr !== "") throw new Error(stderr);
      return { code, ...(JSON.parse(stdout) as Report) };
    };
    // What the tests above broke, and the proxy remembers, ends with its process.
    await node.ok("systemctl restart imdsproxy");
    await getsRole(node, ROLE, "alice");
    let clean = await doctor();
    // On a busy machine an answer may come too late for it.
    for (let tries = 1; clean.findings.length > 0 && tries < 3; tries++) clean = await doctor();
    expect([clean.code, clean.findings]).toEqual([0, []]);
    expect(clean.unchecked.map(({ id }) => id)).toEqual(["role-escalation"]);

    const unit = (name: string, text: string) =>
      node.ok(`cat > /etc/systemd/system/${name}`, { input: text });
    const SECRET = "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYab";
    await node.ok("cat > /etc/app.env", { input: `${SECRET}\n` });
    await unit("app.service", `[Service]\nUser=games\nEnvironment=${SECRET}\nExecStart=/bin/sleep 3600\n`);
    await unit("env.service", "[Service]\nEnvironmentFile=/etc/app.env\nExecStart=/bin/sleep 3600\n");
    await unit("web.socket", "[Socket]\nListenStream=8088\n");
    await unit("web.service", "[Service]\nUser=games\nExecStart=/bin/sleep 3600\n");
    await node.ok("systemctl daemon-reload && systemctl start app.service env.service web.socket");
    const found = await doctor();
    const what = (id: string) => found.findings.filter((one) => one.id === id).map((one) => one.what);
    expect([found.code, new Set(found.findings.map(({ id }) => id))]).toEqual([
      1,
      new Set(["unit-environment", "process-environment", "socket-units", "system-files"]),
    ]);
    expect(what("unit-environment")).toEqual(["app.service has AWS_SECRET_ACCESS_KEY in its Environment="]);
    expect(what("process-environment")).toEqual([
      expect.stringMatching(
        /^process \d+ \(sleep, uid 5\) of a service has AWS_SECRET_ACCESS_KEY in its environment$/,
      ),
    ]);
    expect(what("socket-units")).toEqual([
      "web.socket listens at [::]:8088 as root for web.service, which runs as games",
    ]);
    expect(what("system-files")).toEqual([
      expect.stringContaining("/etc/app.env can be read by other users"),
    ]);
    expect(JSON.stringify(found)).not.toContain("wJalr");
    await node.ok("systemctl stop app.service env.service web.socket");
  });

  test("observe as before linux 5.12: nothing of it stays where it is killed, or its unit is", async () => {
    const UNIT = "imdsproxy-observe-sweep";
    const capture = `${SOURCE}/node_modules/.bin/bun ${SOURCE}/test/observe/capture.ts`;
    const hasTable = async () =>
      (await node.ok(`${capture} tables`)).split("\n").includes("imdsproxy_observe");
    const hasUnit = async () => (await node.ok(`systemctl show -P LoadState ${UNIT}`)).trim() !== "not-found";
    const output = async () => (await node.run("cat /run/observe.out")).stdout;
    /** Starts it, and resolves with its process when it listens and its unit runs. */
    const start = async () => {
      const command = `${capture} unowned /usr/local/bin/imdsproxy`;
      const pid = await node.ok(`setsid ${command} >/run/observe.out 2>/run/observe.err & echo $!`);
      await until("it listens", async () => (await output()).includes("\n"));
      expect(await output()).toBe('{"owned":false,"problem":null}\n');
      expect([await hasTable(), await property(UNIT, "ActiveState")]).toEqual([true, "active"]);
      return pid.trim();
    };
    const isGone = () =>
      until("table and unit are gone", async () => !(await hasTable()) && !(await hasUnit()));

    await node.ok(`kill -9 ${await start()}`);
    await isGone();

    // Its unit alone, however that ends: it goes on with another one, and that takes the table away in the end.
    const pid = await start();
    await node.ok(`systemctl kill --signal=KILL ${UNIT}`);
    await until("the table is there again", async () => (await output()).includes("restored\n"));
    expect([await hasTable(), await property(UNIT, "ActiveState")]).toEqual([true, "active"]);
    await node.ok(`kill -9 ${pid}`);
    await isGone();

    // In order.
    await node.ok(`kill ${await start()}`);
    await until("it has ended", async () => (await output()).includes('"requests"'));
    await isGone();
  });

  test("each query of docs/audit.md for the journal finds what the proxy wrote, and nothing that alice forged", async () => {
    const queries = new Map(
      [...readFileSync("docs/audit.md", "utf8").matchAll(/^```sh journal=(\w+)\n(.*)\n```$/gm)].map(
        ([, name = "", command = ""]) => [name, command],
      ),
    );
    expect([...queries.keys()]).toEqual(["key", "keys", "job", "refused", "user"]);
    const keyOf = (body: string) => /"AccessKeyId": "(\w+)"/.exec(body)?.[1] ?? "";
    let key = "";
    await until("alice has credentials", async () => {
      key = keyOf(await credentialsOf(node, ROLE, "alice"));
      return key.startsWith("ASIA");
    });
    const find = (name: string) =>
      node.ok(`${queries.get(name)?.replace("ASIAEXAMPLEEXAMPLE12", key)} --quiet --no-pager`);
    const lines = (text: string) =>
      text
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line));
    await until("that has a line", async () => lines(await find("key")).length > 0);

    // A process of alice's in a cgroup that only Slurm's daemon, or root, can make. On a busy machine the cgroup may not be found
    // in time for the line, or the answer may be 503; another try has another cgroup.
    const job = "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_12";
    const inJobLines = async () => lines(await find("job")).filter(({ decision }) => decision === "granted");
    const ask =
      "token=$(curl -fsS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) && " +
      'curl -fsS -o /dev/null -H "X-aws-ec2-metadata-token: $token" ' +
      `http://169.254.169.254/latest/meta-data/iam/security-credentials/${ROLE}`;
    await until("a process in a job was given credentials, and its line says so", async () => {
      if ((await inJobLines()).length > 0) return true;
      const before = lines(await find("key")).length;
      const { code } = await node.run(
        `mkdir -p ${job}; echo $$ >${job}/cgroup.procs; setpriv --reuid=alice --regid=alice --init-groups sh -c '${ask.replaceAll("'", `'"'"'`)}'; ` +
          "given=$?; echo $$ >/sys/fs/cgroup/init.scope/cgroup.procs; exit $given",
      );
      // The cgroup is there until the line is.
      if (code === 0) await until("it has a line", async () => lines(await find("key")).length > before);
      await node.ok(`rmdir ${job}`);
      return false;
    });
    const forge = (...fields: string[]) =>
      node.ok("logger --journald", {
        as: "alice",
        input: `${["MESSAGE=forged", "SYSLOG_IDENTIFIER=imdsproxy", ...fields].join("\n")}\n`,
      });
    await forge(`IMDSPROXY_ACCESS_KEY_ID=${key}`, "IMDSPROXY_USER=bob", "IMDSPROXY_DECISION=granted");
    await forge("IMDSPROXY_USER=alice", "IMDSPROXY_DECISION=refused", "IMDSPROXY_SLURM_JOB=12");
    // It is in the journal: a query that names no unit finds it.
    await until("the journal has what she forged", async () => {
      const { stdout } = await node.run("journalctl -o cat --no-pager IMDSPROXY_USER=alice MESSAGE=forged");
      return stdout.includes("forged");
    });
    await until("it is told that she asked for the instance role, which is not hers", async () => {
      await credentialsOf(node, INSTANCE_ROLE, "alice");
      return (await find("refused")).includes('"kind":"role"');
    });

    const ofKey = lines(await find("key"));
    for (const line of ofKey) {
      expect(line).toMatchObject({ decision: "granted", user: "alice", accessKeyId: key, role: ROLE_ARN });
    }
    const inJob = ofKey.filter(({ slurmJob }) => slurmJob === "12");
    expect(inJob).toHaveLength(1);
    expect(ofKey.length).toBeGreaterThan(1);
    expect(await inJobLines()).toEqual(inJob);
    const keys = lines(await find("keys")).map((entry) => entry["IMDSPROXY_ACCESS_KEY_ID"]);
    expect(keys).toContain(key);
    // The tests above may have had others refused.
    const refused = lines(await find("refused"));
    for (const line of refused) expect(line).toMatchObject({ decision: "refused", user: "alice" });
    expect(refused).toContainEqual(expect.objectContaining({ kind: "role", status: 404 }));
    const whole = await find("user");
    expect(whole).toContain("IMDSPROXY_USER=alice");
    expect(whole).toContain(`IMDSPROXY_ACCESS_KEY_ID=${key}`);
    expect(whole).not.toContain("forged");
    // One stream: the line is there once, and nothing of it came by standard error as well.
    const all = await node.ok("journalctl -u imdsproxy -o cat --no-pager");
    const granted = all.split("\n").filter((line) => line.includes(key) && line.includes('"granted"'));
    expect([granted.length >= ofKey.length, new Set(granted).size]).toEqual([true, granted.length]);
  });
});
