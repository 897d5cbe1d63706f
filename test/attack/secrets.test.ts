import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { RunningProxy } from "../../src/demo/proxy.ts";
import { curl, IMDS4, mustExec } from "../support/node.ts";
import {
  eventually,
  getWithToken,
  givenCredentials,
  startProxiedNode,
  TOKEN_HEADER,
  TTL_HEADER,
  testConfig,
  tokenOf,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;
/** Another in each run: a file of the machine's root that is written meanwhile may be a copy of this one, or of another run's. */
const EXTERNAL_ID = `external-id-${crypto.randomUUID()}`;
/**
 * A secret of a session as the stand-in for STS makes it (newSession): its marker, then random letters. Not the marker alone,
 * which stands in the executable, since the demo has the same stand-in, and tests that run beside this one build executables.
 */
const SESSION_SECRET = /SESSION\/[\w+=,.@-]+\/[\w-]{8}/;

/** Every way in which the proxy handles a secret: good answers, refusals, and what STS and the upstream do wrong. */
async function driveEveryPath(node: SimulatedNode): Promise<string[]> {
  const tokens = [await tokenOf(node, ALICE), await tokenOf(node, { user: "bob" })];
  const withToken = ["-H", `${TOKEN_HEADER}: ${tokens[0]}`];
  await givenCredentials(node, ALICE);
  for (const path of [
    "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole",
    `/latest/meta-data/iam/security-credentials/${node.roleName}`,
    "/latest/meta-data/iam/security-credentials-extended/",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/user-data",
    "/latest/meta-data/../user-data",
    "/latest/meta-data/tags/instance/Name",
    "/imdsproxy/whoami",
  ]) {
    await curl(node, ALICE, IMDS4 + path, withToken);
    // Somebody else's token, no token, and a token where none belongs.
    await curl(node, ALICE, IMDS4 + path, ["-H", `${TOKEN_HEADER}: ${tokens[1]}`]);
    await curl(node, ALICE, `${IMDS4}${path}?token=${tokens[0]}`);
  }
  await curl(node, ALICE, `${IMDS4}/latest/api/token`, ["-X", "PUT", "-H", `${TTL_HEADER}: ${tokens[0]}`]);
  const faults = [
    {
      kind: "error",
      status: 403,
      code: "AccessDenied",
      message: `denied with ${node.secrets.role.sessionToken}`,
    },
    {
      kind: "error",
      status: 403,
      code: "SignatureDoesNotMatch",
      message: `the canonical request was ${node.secrets.role.sessionToken}`,
    },
    { kind: "error", status: 400, code: "ExpiredToken", message: node.secrets.role.sessionToken },
    { kind: "body", status: 200, body: `<AssumeRoleResponse>${node.secrets.role.secretAccessKey}` },
    { kind: "body", status: 502, body: `<html>${node.secrets.role.secretAccessKey}</html>` },
    { kind: "drop" },
  ] as const;
  for (const [index, fault] of faults.entries()) {
    await node.sts.set({ fault });
    // A uid of its own for each: what is remembered of one says nothing of the next.
    const who = { uid: 5_000 + index };
    await getWithToken(node, who, "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole");
  }
  await node.sts.set({ fault: { kind: "none" } });
  return tokens;
}

/** Everything in `text` that is a secret, by name, so that a failure of this test does not itself print one. */
function secretsIn(text: string, node: SimulatedNode, tokens: readonly string[], key: Buffer): string[] {
  const found: string[] = [];
  if (text.includes(node.secrets.marker)) found.push("a secret of the instance role");
  if (SESSION_SECRET.test(text)) found.push("a secret of a session");
  if (text.includes(EXTERNAL_ID)) found.push("the external id");
  if (tokens.some((token) => text.includes(token))) found.push("a token");
  const spellings = [
    key.toString("hex"),
    key.toString("base64").replace(/=+$/, ""),
    key.toString("base64url"),
    key.toString("latin1"),
  ];
  if (spellings.some((spelling) => text.includes(spelling))) found.push("the tokens' key");
  return found;
}

describeAsRoot("secrets", () => {
  let node: SimulatedNode;
  let proxy: RunningProxy;
  let tokens: string[] = [];
  let key: Buffer;
  const found = (text: string) => secretsIn(text, node, tokens, key);

  beforeAll(async () => {
    const started = await startProxiedNode(
      {},
      {
        log: { level: "debug", format: "json" },
        metrics: { listen: "127.0.0.1:9254" },
        rules: [
          {
            name: "with an external id",
            match: { uid: 5_000 },
            role: "arn:aws:iam::842413447717:role/ImdsProxyTestRole",
            externalId: EXTERNAL_ID,
          },
        ],
      },
    );
    ({ node, proxy } = started);
    key = readFileSync(node.path("/var/lib/imdsproxy/token.key"));
    tokens = await driveEveryPath(node);
  });
  afterAll(() => node?.stop());

  test("the search finds what it is to find", async () => {
    // What alice may have is full of what nobody else may.
    const { body } = await givenCredentials(node, ALICE);
    expect(found(body)).toEqual(["a secret of a session"]);
    const mine = node.secrets.role.secretAccessKey + EXTERNAL_ID + tokens[0] + key.toString("hex");
    expect(found(mine)).toEqual([
      "a secret of the instance role",
      "the external id",
      "a token",
      "the tokens' key",
    ]);
  });
  test("are in no line of the log, at level debug", async () => {
    expect(proxy.output()).toContain('"level":"debug"');
    await eventually("the first denial is in it", () => proxy.output().includes("AccessDenied"));
    expect(found(proxy.output())).toEqual([]);
  });
  test("are in no metric, and no label is of a user or a role", async () => {
    const metrics = await mustExec(node, ALICE, ["curl", "-sf", "http://127.0.0.1:9254/metrics"]);
    expect(metrics).toContain("imdsproxy_requests_total");
    expect(found(metrics)).toEqual([]);
    expect(metrics).not.toMatch(/alice|bob|2001|ImdsProxyTestRole|842413447717/);
  });
  test("are in no argument and in no variable of the environment", async () => {
    const read = (file: string) => readFileSync(`/proc/${proxy.pid}/${file}`, "latin1");
    expect(found(read("cmdline"))).toEqual([]);
    expect(found(read("environ"))).toEqual([]);
  });
  test("are in no file but the key's own, and that is root's alone", async () => {
    const script = `find / -xdev -type f -newer /run/bin -print0 2>/dev/null; find /run /tmp /var/tmp /var/lib /var/log /dev/shm /etc -type f -print0 || :`;
    const paths = new Set(
      (await mustExec(node, ROOT, ["sh", "-c", script])).split("\0").filter((path) => path !== ""),
    );
    const holding: string[] = [];
    const read = (path: string) => {
      try {
        return readFileSync(node.path(path), "latin1");
      } catch {
        // It is gone.
        return "";
      }
    };
    for (const path of paths) {
      // The node's /etc is a directory of its /run.
      if (/^\/(?:proc|sys|run\/etc)\//.test(path) || path.startsWith("/run/bin/")) continue;
      if (path === "/var/lib/imdsproxy/token.key") continue;
      const text = read(path);
      // The configuration holds the external id: it has to be somewhere.
      if (path !== "/etc/imdsproxy/config.yaml" && found(text).length > 0) holding.push(path);
    }
    expect(holding).toEqual([]);
    expect(
      (
        await mustExec(node, ROOT, [
          "stat",
          "-c",
          "%a %u",
          "/var/lib/imdsproxy",
          "/var/lib/imdsproxy/token.key",
        ])
      ).trim(),
    ).toBe("700 0\n600 0");
    expect((await node.exec({ ...ALICE, argv: ["cat", "/var/lib/imdsproxy/token.key"] })).exitCode).not.toBe(
      0,
    );
  });
  test("are not to be had from the process: nothing of /proc/PID that tells something opens for alice", async () => {
    const pid = (await mustExec(node, ROOT, ["pgrep", "-f", "imdsproxy serve"])).trim().split("\n")[0];
    for (const file of ["environ", "maps", "mem", "fd", "auxv", "stack", "syscall", "cwd", "root"]) {
      const { exitCode } = await node.exec({
        ...ALICE,
        argv: ["sh", "-c", `ls -L /proc/${pid}/${file} >/dev/null && cat /proc/${pid}/${file} >/dev/null`],
      });
      expect([file, exitCode === 0]).toEqual([file, false]);
    }
  });
  test("are in no document that an ordinary user gets beside their own", async () => {
    for (const path of [
      "/imdsproxy/whoami",
      "/latest/meta-data/iam/info",
      "/latest/meta-data/",
      "/latest/dynamic/instance-identity/document",
    ]) {
      expect(found((await getWithToken(node, ALICE, path)).body)).toEqual([]);
    }
    const shown = await mustExec(node, ROOT, ["imdsproxy", "config", "show"]);
    expect(found(shown)).toEqual([]);
    expect(found(await mustExec(node, ROOT, ["imdsproxy", "explain", "5000", "--json"]))).toEqual([]);
  });

  describe("after a crash", () => {
    beforeEach(async () => {
      await node.sts.set({ fault: { kind: "none" } });
    });
    for (const signal of ["SIGSEGV", "SIGABRT", "SIGQUIT", "SIGBUS", "SIGILL"] as const) {
      test(`by ${signal}: nothing in what it writes, and no core file`, async () => {
        // The kernel would write cores of whoever may have them: into a directory that all can write.
        await proxy.stop();
        await mustExec(node, ROOT, ["sh", "-c", "install -d -m 1777 /tmp/cores"]);
        const crashed = await node.startProxy({
          config: testConfig(node, { log: { level: "debug", format: "json" } }),
        });
        expect(readFileSync(`/proc/${crashed.pid}/limits`, "utf8")).toMatch(/Max core file size\s+0\s+0/);
        await givenCredentials(node, ALICE);
        const { stdout, stderr } = await crashed.stop(signal);
        expect(found(stdout + stderr)).toEqual([]);
        expect(
          await mustExec(node, ROOT, [
            "sh",
            "-c",
            "find / -xdev -name 'core*' -not -path '*/dpkg/info/*' -newer /tmp/cores -type f 2>/dev/null | grep -v /proc/ || true",
          ]),
        ).toBe("");
      });
    }
  });
});
