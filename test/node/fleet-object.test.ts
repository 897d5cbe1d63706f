import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import type { RunResult } from "../../src/demo/run.ts";
import type { NodeStatus } from "../../src/service/node-status.ts";
import { type FleetKey, fleetConfig, fleetKey, type NodeS3, startNodeS3 } from "../support/fleet.ts";
import { curl, mustExec, TEST_ROLE } from "../support/node.ts";
import {
  credentialsOf,
  eventually,
  givenCredentials,
  type ProxiedNode,
  startProxiedNode,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";

/** A node whose rules are a fleet's object: fetched by root's command, taken up by the proxy, which asks nobody for it. */

const COPY = "/var/lib/imdsproxy-fleet/object.yaml";
const root = { user: "root" };
const alice = { user: "alice" };
const METRICS = "http://127.0.0.1:9254";
const rules = (name = "ImdsProxyTestRole") => `role: arn:aws:iam::842413447717:role/${name}\n`;
const FETCHES = { Effect: "Allow", Action: "s3:GetObject", Resource: "arn:aws:s3:::bucket/rules.yaml" };
const REFUSED = `rules: [{ name: closed, role: none }]
tests: [{ given: { user: alice }, expect: { role: none } }]
`;

describeAsRoot("a node with a fleet's object:", () => {
  let proxied: ProxiedNode;
  let fleet: FleetKey;
  let s3: NodeS3;
  let pid: number;

  beforeAll(async () => {
    fleet = fleetKey();
    proxied = await startProxiedNode(
      {},
      { role: null, config: fleetConfig(fleet.publicKey), metrics: { listen: "127.0.0.1:9254" } },
      async (node) => {
        s3 = await startNodeS3(node);
      },
    );
    pid = proxied.proxy.pid;
  });
  afterAll(() => proxied?.node.stop());

  const fetching = (...flags: string[]): Promise<RunResult> =>
    proxied.node.exec({ ...root, argv: ["/run/bin/imdsproxy", "config", "fetch", ...flags] });
  async function taken(object: string): Promise<void> {
    s3.put(object);
    const { exitCode, stderr } = await fetching();
    if (exitCode !== 0) throw new Error(stderr);
  }
  /** Fetches, and expects that nothing comes of it. */
  async function refused(): Promise<string> {
    const before = readFileSync(proxied.node.path(COPY));
    const { exitCode, stderr } = await fetching();
    expect([exitCode, readFileSync(proxied.node.path(COPY)).equals(before)]).toEqual([1, true]);
    return stderr;
  }
  const status = async (): Promise<NodeStatus> =>
    JSON.parse(
      (await proxied.node.exec({ ...root, argv: ["/run/bin/imdsproxy", "status", "--json"] })).stdout,
    );
  const permissions = () =>
    proxied.node.exec({ ...root, argv: ["/run/bin/imdsproxy", "iam", "permissions-policy"] });
  const page = async (path: string) => (await curl(proxied.node, alice, METRICS + path)).body;
  const roleOfAlice = async () => {
    const { body } = await givenCredentials(proxied.node, alice);
    const key = /"AccessKeyId" ?: ?"(\w+)"/.exec(body)?.[1];
    const given = (await proxied.node.sts.log()).find(({ issuedKeyId }) => issuedKeyId === key);
    return given?.parameters["RoleArn"]?.split("/")[1] ?? null;
  };

  test("before the first object everybody is refused, and it is said wherever an operator looks", async () => {
    expect((await credentialsOf(proxied.node, alice)).status).toBe(404);
    const { healthy, troubles, configuration } = await status();
    expect([healthy, configuration?.object?.serial]).toEqual([false, null]);
    expect(troubles.find(({ id }) => id === "object")?.what).toContain("this node has never had the object");
    expect(await page("/metrics")).toContain('imdsproxy_config_info{version="none",hash=""} 1\n');
    expect(await page("/readyz")).toContain("[-]object failed: there is no object with the fleet's rules");
    const iam = await permissions();
    expect(iam.stderr).toContain("note: the roles stand in the fleet's object, and there is none here");
    expect(JSON.parse(iam.stdout).Statement).toEqual([FETCHES]);
  });

  test("the first object is taken up without a restart, and a dry run before it changes nothing", async () => {
    s3.put(fleet.sign(1, rules()));
    const dry = await fetching("--dry-run");
    expect(dry.stdout).toStartWith("would be taken: serial 1, sha256 ");
    expect((await credentialsOf(proxied.node, alice)).status).toBe(404);
    const { stdout } = await fetching();
    expect(stdout).toMatch(/^taken: serial 1, sha256 [0-9a-f]{64}, the first one\n$/);
    await eventually(
      "alice has her role",
      async () => (await credentialsOf(proxied.node, alice)).status === 200,
    );
    expect(proxied.proxy.pid).toBe(pid);
    expect((await status()).configuration).toMatchObject({
      defaultRole: TEST_ROLE,
      object: { serial: 1, fleet: "research", source: "s3://bucket/rules.yaml" },
    });
    expect(JSON.parse((await fetching("--json")).stdout)).toMatchObject({ kind: "unchanged", serial: 1 });
    const { Statement } = JSON.parse((await permissions()).stdout);
    expect(Statement).toEqual([expect.objectContaining({ Resource: TEST_ROLE }), FETCHES]);
  });

  test("each later object is taken up, and metrics name what runs as sha256sum does", async () => {
    const object = fleet.sign(7, rules("Seven"));
    await taken(object);
    const hash = new Bun.CryptoHasher("sha256").update(object).digest("hex");
    await eventually("serial 7 runs", async () =>
      (await page("/metrics")).includes(`imdsproxy_config_info{version="7",hash="${hash}"} 1\n`),
    );
    expect(await roleOfAlice()).toBe("Seven");
    expect(await page("/metrics")).toContain("imdsproxy_config_last_fetch_successful 1\n");
    expect(await page("/readyz")).toContain("[+]object ok\n");
  });

  describe("nothing changes by", () => {
    for (const [what, object, said] of [
      ["a replayed one", () => fleet.sign(6, rules("Six")), "an older object is not taken again"],
      ["one with exempt", () => fleet.sign(8, `${rules("Eight")}exempt: [alice]\n`), "exempt must not stand"],
      ["one that gives a role to nobody", () => fleet.sign(8, "rules: []\n"), "gives a role to nobody"],
    ] as const)
      test(what, async () => {
        s3.put(object());
        expect(await refused()).toContain(said);
      });

    test("a redirect to the metadata service", async () => {
      s3.fail(307);
      expect(await refused()).toContain("S3 answered with a redirect");
    });

    test("a full disk, of which the last good object is still there", async () => {
      s3.fail(null);
      s3.put(fleet.sign(8, `${rules("Eight")}# ${"x".repeat(100_000)}\n`));
      const directory = "/var/lib/imdsproxy-fleet";
      await mustExec(proxied.node, root, [
        "sh",
        "-ec",
        // Bound into its place with the copy in it: the proxy, which looks each second, never finds the copy gone.
        `mkdir /run/small; mount -t tmpfs -o size=64k,mode=755 small /run/small; cp -a ${directory}/. /run/small; mount --bind /run/small ${directory}`,
      ]);
      try {
        expect(await refused()).toContain("ENOSPC");
      } finally {
        await mustExec(proxied.node, root, ["umount", directory, "/run/small"]);
      }
    });
  });

  test("and what failed last is said in status, metrics and readyz, which stays ready", async () => {
    s3.fail(403);
    await refused();
    const { summary, troubles } = await status();
    expect(summary).toStartWith(
      "NOT healthy: the last poll of s3://bucket/rules.yaml failed, and the rules of serial 7 stay",
    );
    expect(troubles.find(({ id }) => id === "object")?.remedy).toContain("s3:GetObject");
    // The pages may be those of a moment ago.
    await eventually("the metrics say so", async () =>
      (await page("/metrics")).includes("imdsproxy_config_last_fetch_successful 0\n"),
    );
    await eventually("readyz says so", async () => (await page("/readyz")).includes("with a warning"));
    const ready = await curl(proxied.node, alice, `${METRICS}/readyz`);
    expect([ready.status, ready.body]).toEqual([
      200,
      expect.stringContaining(
        "[+]object ok, with a warning: the last poll failed, and the last good object is served\n",
      ),
    ]);
  });

  test("users neither read nor change the copy, and fetch nothing", async () => {
    const found = statSync(proxied.node.path(COPY));
    expect([found.uid, found.mode & 0o777]).toEqual([0, 0o640]);
    for (const command of [
      `cat ${COPY}`,
      `echo >${COPY}`,
      `mv ${COPY} ${COPY}.old`,
      "/run/bin/imdsproxy config fetch",
    ])
      expect([
        command,
        (await proxied.node.exec({ ...alice, argv: ["sh", "-c", command] })).exitCode,
      ]).not.toEqual([command, 0]);
  });

  test("the last good object serves after a restart while S3 is away, and a copy that was changed serves nobody", async () => {
    s3.fail(503);
    await proxied.proxy.stop();
    await proxied.restart();
    expect(await roleOfAlice()).toBe("Seven");
    await proxied.proxy.stop();
    const good = readFileSync(proxied.node.path(COPY), "utf8");
    proxied.node.write(COPY, good.replace("Seven", "Admin"));
    await proxied.restart();
    expect((await credentialsOf(proxied.node, alice)).status).toBe(404);
    expect((await status()).troubles.map(({ what }) => what).join()).toContain("signed by no key");
    proxied.node.write(COPY, good);
    await eventually(
      "alice has her role again",
      async () => (await credentialsOf(proxied.node, alice)).status === 200,
    );
  });

  test("an object that refuses everybody takes effect where one of its tests says so", async () => {
    s3.fail(null);
    await taken(fleet.sign(9, REFUSED));
    await eventually(
      "alice is refused",
      async () => (await credentialsOf(proxied.node, alice)).status === 404,
    );
    await taken(fleet.sign(10, rules("Ten")));
    await eventually(
      "alice has a role",
      async () => (await credentialsOf(proxied.node, alice)).status === 200,
    );
    expect(await roleOfAlice()).toBe("Ten");
  });

  describe("setup takes once", () => {
    const { endpoint } = fleetConfig("");
    /** Runs it dry, on the node with this configuration in place of its own. `text`: the configuration that it would install. */
    const setup = async (source: string, sha256: string | null) => {
      proxied.node.write("/run/installed.yaml", "exempt: [dcv]\n");
      const pin = sha256 === null ? "" : `--config-sha256 ${sha256}`;
      const command = `mount --bind /run/installed.yaml /etc/imdsproxy/config.yaml
        export AWS_ENDPOINT_URL_S3=${endpoint} AWS_ENDPOINT_URL_SSM=${endpoint}
        exec /run/bin/imdsproxy setup --dry-run --platform none --config ${source} ${pin}`;
      const ran = await proxied.node.exec({ ...root, argv: ["unshare", "--mount", "sh", "-ec", command] });
      const text = /^--- \/etc\/imdsproxy\/config\.yaml .*\n((?: {4}.*\n)*)/m.exec(ran.stdout)?.[1] ?? null;
      return { exitCode: ran.exitCode, stderr: ran.stderr, text: text?.replaceAll(/^ {4}/gm, "") ?? null };
    };
    const WHOLE = `${rules("Whole")}exempt: [alice]\n`;
    const hash = new Bun.CryptoHasher("sha256").update(WHOLE).digest("hex");
    const refusal = (exitCode: number, said: string) => ({
      exitCode,
      stderr: expect.stringContaining(said),
      text: null,
    });

    for (const source of ["s3://bucket/once.yaml", "ssm:/imdsproxy/once"])
      test(`role and rules of ${source}, beside the node's own keys`, async () => {
        s3.put(rules("Once"));
        const { exitCode, text } = await setup(source, null);
        expect([exitCode, text]).toEqual([0, `exempt: [ dcv ]\n${rules("Once")}`]);
      });

    test("all of an object whose hash is named, and nothing of another", async () => {
      s3.put(WHOLE);
      const { exitCode, text } = await setup("s3://bucket/once.yaml", hash);
      expect([exitCode, text]).toEqual([0, WHOLE]);
      expect(await setup("ssm:/imdsproxy/once", null)).toEqual(refusal(2, "has the keys exempt"));
      s3.put(`${WHOLE}# changed\n`);
      expect(await setup("s3://bucket/once.yaml", hash)).toEqual(refusal(2, "has the SHA-256"));
    });

    test("nothing where there is nothing, and nothing that is no source", async () => {
      s3.fail(404);
      expect(await setup("ssm:/imdsproxy/none", null)).toEqual(refusal(1, "there is no such parameter in "));
      const wrong = "which is no object of S3 and no parameter of SSM";
      expect(await setup("ssm:a/b", null)).toEqual(refusal(2, wrong));
      s3.fail(null);
    });
  });
});
