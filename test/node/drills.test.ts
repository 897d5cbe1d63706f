import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { IMDS4, mustExec, TEST_ROLE } from "../support/node.ts";
import {
  applyRules,
  credentialsOf,
  eventually,
  getWithToken,
  givenCredentials,
  type ProxiedNode,
  startProxiedNode,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { StsFault } from "../support/stand-ins/sts.ts";

/**
 * What goes wrong on a node, and whether the first command that a person types names it: with its reason, since when, and
 * what to do.
 */

const ROOT = { user: "root" } as const;
const DENIED: StsFault = {
  kind: "error",
  status: 403,
  code: "AccessDenied",
  message: `User: arn:aws:sts::842413447717:assumed-role/MySageMakerClusterInstanceRole/SageMaker is not authorized to perform: sts:AssumeRole on resource: ${TEST_ROLE} because no identity-based policy allows the sts:AssumeRole action`,
};
const THROTTLED: StsFault = { kind: "error", status: 400, code: "Throttling", message: "Rate exceeded" };

interface Problem {
  readonly id: string;
  readonly what: string;
  readonly since: string;
  readonly remedy: string;
  readonly lasting: boolean;
}

describeAsRoot("when something is wrong, the first command names it:", () => {
  let proxied: ProxiedNode;
  let count = 0;
  const users = Array.from({ length: 24 }, (_, index) => ({ name: `user${index}`, uid: 3100 + index }));
  const someone = () => ({ user: users[count++ % users.length]?.name ?? "" });

  beforeAll(async () => {
    proxied = await startProxiedNode({ users });
  });
  afterAll(() => proxied?.node.stop());
  beforeEach(async () => {
    await proxied.node.sts.set({ fault: { kind: "none" }, delayMs: 0, clockOffsetMs: 0 });
    // What an earlier test's failures left behind must not be taken for this one's.
    await proxied.proxy.stop();
    await proxied.restart();
  });

  interface Status {
    readonly healthy: boolean;
    readonly proxy: { readonly kind: string; readonly problems: Problem[] };
  }
  /** What the proxy answers: on a busy machine it may not have in the time that the command waits for it. */
  const statusOf = async (): Promise<Status> => {
    let status: Status | undefined;
    await eventually("the proxy answers", async () => {
      const argv = ["imdsproxy", "iptables", "status", "--json"];
      status = JSON.parse((await proxied.node.exec({ ...ROOT, argv })).stdout) as Status;
      return status.proxy.kind === "answered";
    });
    if (status === undefined) throw new Error("eventually() looks at least once");
    return status;
  };
  const shown = async () =>
    (await proxied.node.exec({ ...ROOT, argv: ["imdsproxy", "iptables", "status"] })).stdout;
  const whoami = async (who: { user: string }) => {
    const { stdout } = await proxied.node.exec({ ...who, argv: ["imdsproxy", "whoami", "--json"] });
    return JSON.parse(stdout) as {
      sessionEnds: string | null;
      lastError: { message: string; since: string; remedy: string } | null;
    };
  };

  /** The first line of `imdsproxy status`, which `--json` has as well, and how it ended. */
  const firstLine = async (who: { user: string } = ROOT) => {
    const { stdout, exitCode } = await proxied.node.exec({ ...who, argv: ["imdsproxy", "status"] });
    return { text: stdout, first: stdout.split("\n")[0] ?? "", exitCode };
  };
  const statusJson = async (who: { user: string } = ROOT) => {
    const { stdout } = await proxied.node.exec({ ...who, argv: ["imdsproxy", "status", "--json"] });
    return JSON.parse(stdout);
  };

  test("nothing is wrong: no problem, and no last error", async () => {
    const who = someone();
    expect((await givenCredentials(proxied.node, who)).status).toBe(200);
    expect(await firstLine()).toMatchObject({ exitCode: 0, first: expect.stringMatching(/^healthy: /) });
    expect(await firstLine(who)).toMatchObject({ exitCode: 0, first: `healthy: you get ${TEST_ROLE}` });
    expect((await statusOf()).proxy).toEqual({ kind: "answered", problems: [] });
    expect((await whoami(who)).lastError).toBeNull();
  });

  const faults: [
    name: string,
    fault: StsFault,
    what: RegExp,
    remedy: RegExp,
    lasting: boolean,
    own: RegExp,
  ][] = [
    [
      "the role is denied",
      DENIED,
      /ImdsProxyTestRole cannot be assumed \(AccessDenied.*MySageMakerClusterInstanceRole/,
      /permissions of arn:aws:iam::842413447717:role\/MySageMakerClusterInstanceRole need this statement/,
      true,
      /STS refuses to assume/,
    ],
    ["STS throttles", THROTTLED, /\(Throttling/, /asked too often/, false, /asked too often/],
    [
      "STS drops connections",
      { kind: "drop" },
      /\(connection/,
      /can reach http.*DNS/,
      false,
      /cannot be reached/,
    ],
    [
      "STS answers with another's page",
      { kind: "body", status: 200, body: "<html>Login</html>" },
      /\(answer, /,
      /sts\.endpoint/,
      false,
      /not STS/,
    ],
    [
      "the clock is wrong by 20 minutes, in STS's eyes",
      { kind: "error", status: 403, code: "RequestExpired", message: "Request has expired." },
      /\(RequestExpired/,
      /clock is right/,
      false,
      /node's own credentials/,
    ],
  ];
  for (const [name, fault, what, remedy, lasting, own] of faults) {
    test(name, async () => {
      await proxied.node.sts.set({ fault });
      const who = someone();
      await credentialsOf(proxied.node, who);
      await eventually("the failure is known", async () => (await statusOf()).proxy.problems.length > 0);
      const { healthy, proxy } = await statusOf();
      // The rules are right all the while.
      expect(healthy).toBe(true);
      const [problem] = proxy.problems;
      expect(problem).toMatchObject({ id: "sts", lasting });
      expect(problem?.what).toMatch(what);
      expect(problem?.remedy).toMatch(remedy);
      expect(Date.parse(problem?.since ?? "")).toBeGreaterThan(0);
      expect(await shown()).toMatch(what);
      const { first, exitCode } = await firstLine();
      expect([exitCode, first]).toEqual([1, expect.stringMatching(what)]);
      expect(first).toStartWith("NOT healthy: ");
      const { lastError, sessionEnds } = await whoami(who);
      expect(sessionEnds).toBeNull();
      expect(lastError?.message).toMatch(own);
      expect(lastError?.remedy.length).toBeGreaterThan(20);
      expect((await firstLine(who)).first).toBe(`NOT healthy: ${lastError?.message}`);
      const text = await proxied.node.exec({ ...who, argv: ["imdsproxy", "whoami"] });
      expect(text.stdout).toContain("no session: STS gave none");
      expect(text.stdout).toContain("last error");
      // The next one works: the problem is gone with its cause.
      expect(JSON.stringify(lastError)).not.toContain("MySageMakerClusterInstanceRole");
    });
  }

  test("STS hangs", async () => {
    await proxied.node.sts.set({ fault: { kind: "hang" } });
    await credentialsOf(proxied.node, someone());
    await eventually("the time-out is known", async () =>
      (await statusOf()).proxy.problems.some(({ what }) => /\(timeout, .*did not answer/.test(what)),
    );
    expect((await statusOf()).proxy.problems[0]?.remedy).toContain("can reach");
  });

  test("no name server knows the endpoint of STS: which host, and the resolver's code", async () => {
    const { node } = proxied;
    const path = "/etc/imdsproxy/config.yaml";
    const before = await mustExec(node, ROOT, ["cat", path]);
    try {
      // No name server is there: the resolver knows at once.
      node.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
      node.write(
        path,
        JSON.stringify({ ...JSON.parse(before), sts: { endpoint: "http://sts.invalid:8080" } }),
      );
      await proxied.proxy.stop();
      await proxied.restart();
      await credentialsOf(node, someone());
      const known = async () => (await statusOf()).proxy.problems.find(({ id }) => id === "sts");
      await eventually("the failure is known", async () => (await known()) !== undefined);
      const problem = await known();
      expect(problem?.what).toMatch(/STS cannot be reached: (?:EAI_AGAIN|ENOTFOUND|DNS_E\w+)/);
      expect(problem?.remedy).toContain("can reach http://sts.invalid:8080 (DNS,");
    } finally {
      node.write(path, before);
    }
  });

  test("the agent is away", async () => {
    const stopped = await mustExec(proxied.node, ROOT, [
      "sh",
      "-c",
      "ss -Hltnp 'sport = 9081' | grep -o 'pid=[0-9]*'",
    ]);
    const pid = Number(/pid=(\d+)/.exec(stopped)?.[1]);
    await mustExec(proxied.node, ROOT, ["kill", "-STOP", String(pid)]);
    try {
      let problem: Problem | undefined;
      await eventually("it is known", async () => {
        problem = (await statusOf()).proxy.problems.find(({ id }) => id === "upstream");
        return problem !== undefined;
      });
      expect(problem?.what).toContain("169.254.0.2:9081 does not answer");
      expect((await firstLine()).first).toMatch(/^NOT healthy: .*169\.254\.0\.2:9081 does not answer/);
      expect(problem?.remedy).toContain("sport = 9081");
    } finally {
      await mustExec(proxied.node, ROOT, ["kill", "-CONT", String(pid)]);
    }
  });

  for (const [way, clockOffsetMs] of [
    ["behind", 20 * 60_000],
    ["ahead of", -20 * 60_000],
  ] as const) {
    test(`the node's clock is 20 minutes ${way} STS's: users are served, and the clock is named until it is right`, async () => {
      await proxied.node.sts.set({ clockOffsetMs });
      expect((await givenCredentials(proxied.node, someone())).body).toContain("AccessKeyId");
      const [problem] = (await statusOf()).proxy.problems;
      expect(problem).toMatchObject({ id: "clock", lasting: true });
      expect(problem?.what).toContain(`the node's clock is 20 minutes ${way} STS's`);
      expect(problem?.remedy).toContain("chronyc makestep");
      expect(await shown()).toContain(`20 minutes ${way} STS's`);
      await proxied.node.sts.set({ clockOffsetMs: 0 });
      await givenCredentials(proxied.node, someone());
      expect((await statusOf()).proxy.problems).toEqual([]);
    });
  }

  test("the disk is full: users are served, and the disk is named until there is room", async () => {
    const { node } = proxied;
    const state = "/var/lib/imdsproxy";
    // In place of the state directory a disk of one page, which the proxy's own files have filled.
    await proxied.proxy.stop();
    await mustExec(node, ROOT, [
      "sh",
      "-ec",
      `mkdir -p ${state} && mount -t tmpfs -o size=8k,mode=700 none ${state}`,
    ]);
    try {
      await proxied.restart();
      await mustExec(node, ROOT, ["sh", "-c", `dd if=/dev/zero of=${state}/filler bs=1k 2>/dev/null; true`]);
      expect((await givenCredentials(node, someone())).body).toContain("AccessKeyId");
      await eventually("it is noticed", async () => (await statusOf()).proxy.problems.length > 0);
      const [problem] = (await statusOf()).proxy.problems;
      expect(problem).toMatchObject({ id: "callers", lasting: false });
      expect(problem?.what).toContain(`${state} cannot be written to (ENOSPC)`);
      expect(problem?.remedy).toContain(`df -h ${state}`);
      expect((await firstLine()).first).toContain(`NOT healthy: ${state} cannot be written to (ENOSPC)`);
      await mustExec(node, ROOT, ["rm", `${state}/filler`]);
      await givenCredentials(node, someone());
      await eventually("it is over", async () => (await statusOf()).proxy.problems.length === 0);
    } finally {
      await proxied.proxy.stop();
      await mustExec(node, ROOT, ["umount", state]);
      await proxied.restart();
    }
  });

  test("a problem that is over is not told any more", async () => {
    const who = someone();
    await proxied.node.sts.set({ fault: { kind: "drop" } });
    await credentialsOf(proxied.node, who);
    await eventually("it is known", async () => (await statusOf()).proxy.problems.length > 0);
    await proxied.node.sts.set({ fault: { kind: "none" } });
    await eventually("it is over for the user", async () => (await whoami(who)).sessionEnds !== null);
    expect((await whoami(who)).lastError).toBeNull();
  });

  test("a file that was changed and not loaded, and one that was refused at a reload", async () => {
    const { node, proxy } = proxied;
    const path = "/etc/imdsproxy/config.yaml";
    const before = await mustExec(node, ROOT, ["cat", path]);
    const metric = async (name: string) => {
      const text = await mustExec(node, ROOT, ["curl", "-sS", "http://127.0.0.1:9254/metrics"]);
      return new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1];
    };
    try {
      node.write(path, JSON.stringify({ ...JSON.parse(before), metrics: { listen: "127.0.0.1:9254" } }));
      await proxied.proxy.stop();
      await proxied.restart();
      const good = await mustExec(node, ROOT, ["cat", path]);
      expect(await metric("imdsproxy_config_current")).toBe("1");
      node.write(path, `${good}\n# changed`);
      await eventually("the metric tells", async () => (await metric("imdsproxy_config_current")) === "0");
      expect((await statusOf()).proxy.problems).toMatchObject([{ id: "configuration", lasting: true }]);
      node.write(path, "role: nonsense\n");
      process.kill(proxied.proxy.pid, "SIGHUP");
      await eventually(
        "the reload was refused",
        async () => (await metric("imdsproxy_config_last_reload_successful")) === "0",
      );
      const [problem] = (await statusOfBroken()).problems;
      expect(problem?.what).toContain("was not loaded");
      expect((await firstLine()).first).toMatch(/^NOT healthy: .*config\.yaml was not loaded.*role/);
      expect(problem?.what).toContain("role");
      node.write(path, good);
      process.kill(proxied.proxy.pid, "SIGHUP");
      await eventually(
        "the reload was taken",
        async () => (await metric("imdsproxy_config_last_reload_successful")) === "1",
      );
      expect((await statusOf()).proxy.problems).toEqual([]);
      const { lastReload, current } = (await statusJson()).configuration;
      expect([current, lastReload.problem, Number.isNaN(Date.parse(lastReload.at))]).toEqual([
        true,
        null,
        false,
      ]);
    } finally {
      node.write(path, before);
      void proxy;
    }
    // `iptables status` cannot read a broken file: it says where it is broken, and exits with 2.
    async function statusOfBroken() {
      const { stdout } = await node.exec({
        ...ROOT,
        argv: ["curl", "-sS", "-H", "Host: 127.0.0.1:254", "http://127.0.0.1:254/imdsproxy/health"],
      });
      return JSON.parse(stdout) as { problems: Problem[] };
    }
  });

  describe("what the proxy says of itself is for root:", () => {
    test("alice finds nothing there, by the redirect or straight", async () => {
      const who = someone();
      expect((await getWithToken(proxied.node, who, "/imdsproxy/health")).status).toBe(404);
    });
  });

  test("the proxy is dead: the first line says so, the rest of the screen is there, and a user is told", async () => {
    await proxied.proxy.stop("SIGKILL");
    try {
      const { text, first, exitCode } = await firstLine();
      expect(exitCode).toBe(1);
      expect(first).toBe("NOT healthy: the proxy is not running: users get no credentials");
      expect(text).toContain("rules       in place");
      expect(text).toContain("169.254.0.2:9081");
      expect(await statusJson()).toMatchObject({ summary: first, proxy: { running: false }, sessions: null });
      expect((await firstLine(someone())).first).toMatch(
        /^NOT healthy: nothing answers at the metadata address/,
      );
    } finally {
      await proxied.restart();
    }
  });

  test("the rules are gone: the first line says so", async () => {
    const { node } = proxied;
    await mustExec(node, ROOT, ["iptables", "-t", "nat", "-F"]);
    try {
      const { text, first, exitCode } = await firstLine();
      expect([exitCode, first]).toEqual([
        1,
        expect.stringMatching(/^NOT healthy: the firewall rules are not as/),
      ]);
      expect(text).toContain("to do: sudo imdsproxy iptables apply");
      const { rules, summary } = await statusJson();
      expect([rules.inPlace, summary]).toEqual([false, first]);
    } finally {
      await applyRules(node);
    }
    expect((await firstLine()).first).toStartWith("healthy: ");
  });

  test("root sees every user with version and outcome, and a user sees themselves alone", async () => {
    const [one, other] = [someone(), someone()];
    const uidOf = ({ user }: { user: string }) => users.find(({ name }) => name === user)?.uid;
    await givenCredentials(proxied.node, one);
    await givenCredentials(proxied.node, other);
    await mustExec(proxied.node, one, ["curl", "-sS", `${IMDS4}/latest/meta-data/instance-id`]);
    const all = await statusJson();
    const row = (who: { user: string }) =>
      all.users.rows.find(({ user }: { user: string | null }) => user === who.user);
    expect(row(one)).toMatchObject({ uid: uidOf(one), v1: 1, outcome: "credentials", role: TEST_ROLE });
    expect(row(other)).toMatchObject({ uid: uidOf(other), v1: 0, outcome: "credentials" });
    // Beside theirs there may be sessions of users of the drills before: STS gave them once it was well again.
    expect(all.sessions.rows).toMatchObject([{ role: TEST_ROLE, denied: 0, failing: 0 }]);
    expect(all.sessions.rows[0].sessions).toBeGreaterThanOrEqual(2);
    expect(Date.parse(all.sessions.rows[0].firstEnd)).toBeGreaterThan(Date.now());
    const own = await statusJson(one);
    expect(own.proxy.users.rows).toMatchObject([{ uid: uidOf(one), v1: 1, outcome: "credentials" }]);
    expect(own.proxy.sessions.rows).toMatchObject([{ role: TEST_ROLE, sessions: 1 }]);
    expect(Object.keys(own.proxy).sort()).toEqual(["for", "sessions", "started", "uid", "users", "version"]);
    for (const text of [JSON.stringify(own), (await firstLine(one)).text]) {
      expect(text).not.toContain(other.user);
      expect(text).not.toContain(String(uidOf(other)));
      expect(text).not.toContain(proxied.node.roleName);
    }
    // The text says what the JSON says.
    const { text } = await firstLine();
    expect(text).toMatch(new RegExp(`^  ${one.user} .*credentials of ImdsProxyTestRole$`, "m"));
    expect(text).toContain("users of the last four hours");
    expect(text).toContain(all.upstream.url);
  });

  test("from a network namespace of its own, whoami says that there is no network", async () => {
    const { stderr, exitCode } = await proxied.node.exec({
      ...ROOT,
      argv: ["unshare", "--net", "imdsproxy", "whoami"],
    });
    expect(exitCode).toBe(1);
    expect(stderr).toContain("network namespace of its own");
    expect(stderr).not.toContain("is not running");
  });
});
