import { afterAll, beforeAll, expect, test } from "bun:test";
import { ORIGINAL_ENTRY } from "../../src/demo/network.ts";
import { awsArn, curl, IMDS4, IMDS6, mustExec } from "../support/node.ts";
import {
  applyRules,
  assumed,
  credentialsOf,
  getWithToken,
  givenCredentials,
  type ProxiedNode,
  sdkArn,
  startProxiedNode,
  TOKEN_HEADER,
  tokenOf,
} from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const alice = { user: "alice" };
const root = { user: "root" };
const INSTANCE_ROLE = "arn:aws:sts::842413447717:assumed-role/MySageMakerClusterInstanceRole/SageMaker";
const aliceArn = (session = "alice@i-0123456789abcdef0") =>
  `arn:aws:sts::842413447717:assumed-role/ImdsProxyTestRole/${session}`;

const TEN = Array.from({ length: 10 }, (_, index) => ({ name: `user${index}`, uid: 3000 + index }));

describeAsRoot("the main job on a HyperPod node", () => {
  let proxied: ProxiedNode;
  let node: SimulatedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({
      users: [{ name: "alice", uid: 2001 }, { name: "bob", uid: 2002 }, ...TEN],
    });
    node = proxied.node;
  });
  afterAll(() => node.stop());

  test("alice is the substitute role to the AWS CLI, root the instance role", async () => {
    expect(await awsArn(node, alice)).toBe(aliceArn());
    expect(await awsArn(node, root)).toBe(INSTANCE_ROLE);
  });

  test("two asks by one user make one AssumeRole", async () => {
    await node.sts.clearLog();
    const [first, second] = await Promise.all([
      givenCredentials(node, { user: "bob" }),
      givenCredentials(node, { user: "bob" }),
    ]);
    expect(first.status).toBe(200);
    expect(JSON.parse(second.body).AccessKeyId).toBe(JSON.parse(first.body).AccessKeyId);
    expect((await assumed(node)).filter((name) => name.startsWith("bob"))).toEqual([
      "bob@i-0123456789abcdef0",
    ]);
  });

  test("ten users at once get sessions of their own, with their own session names", async () => {
    await node.sts.clearLog();
    const arns = await Promise.all(TEN.map(({ name }) => sdkArn(node, { user: name })));
    expect(arns).toEqual(TEN.map(({ name }) => aliceArn(`${name}@i-0123456789abcdef0`)));
    expect((await assumed(node)).sort()).toEqual(TEN.map(({ name }) => `${name}@i-0123456789abcdef0`));
  });

  test("the role list is the substitute's name alone, without a newline", async () => {
    const answer = await getWithToken(node, alice, "/latest/meta-data/iam/security-credentials/");
    expect([answer.status, answer.body]).toEqual([200, "ImdsProxyTestRole"]);
  });

  test("credentials are the seven fields of EC2 for the substitute role", async () => {
    const { status, body, headers } = await givenCredentials(node, alice);
    expect([status, headers.get("content-type")]).toEqual([200, "text/plain"]);
    const fields = ["Code", "LastUpdated", "Type", "AccessKeyId", "SecretAccessKey", "Token", "Expiration"];
    expect(Object.keys(JSON.parse(body))).toEqual(fields);
    expect(JSON.parse(body).SecretAccessKey).toStartWith("SESSION/ImdsProxyTestRole/");
    expect(JSON.parse(body).Expiration).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  });

  test("a metadata category on the allow list comes from the node's own service", async () => {
    expect((await getWithToken(node, alice, "/latest/meta-data/placement/region")).body).toBe("us-west-2");
    expect((await getWithToken(node, alice, "/latest/dynamic/instance-identity/document")).body).toContain(
      "842413447717",
    );
  });

  // The sensitive list of the metadata service, each as clients and attackers write it.
  const sensitive = [
    "/latest/meta-data/iam/security-credentials/MySageMakerClusterInstanceRole",
    "/latest/meta-data/iam/security-credentials/MySageMakerClusterInstanceRole/",
    "/2021-03-23/meta-data/iam/security-credentials/MySageMakerClusterInstanceRole",
    "////latest/meta-data/iam/security-credentials////MySageMakerClusterInstanceRole",
    "/latest/meta-data/iam/security-credentials-extended",
    "/latest/meta-data/iam/security-credentials-extended/MySageMakerClusterInstanceRole",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/meta-data/identity-credentials/ec2/info",
    "/latest/user-data",
    "/latest/user-data/",
    "/latest/dynamic/instance-identity/pkcs7",
    "/latest/dynamic/instance-identity/rsa2048",
    "/latest/dynamic/instance-identity/signature",
    "/latest/meta-data/managed-ssh-keys/signer-cert",
    "/latest/meta-data/managed-ssh-keys/active-keys/ec2-user",
  ];
  for (const path of sensitive) {
    test(`gives alice nothing of ${path}`, async () => {
      for (const base of [IMDS4, IMDS6]) {
        const answer = await getWithToken(node, alice, path, base);
        expect(answer.status).toBe(404);
        expect(answer.body).not.toContain(node.secrets.marker);
      }
      // The same path has the secret for root: the test is not empty.
      const asRoot = await curl(node, root, IMDS4 + path);
      expect(asRoot.status).toBe(200);
      expect(asRoot.body).toMatch(new RegExp(`${node.secrets.marker}|${node.roleName}|Success`));
    });
  }

  test("iam/info is of the substitute role", async () => {
    const { status, body } = await getWithToken(node, alice, "/latest/meta-data/iam/info");
    expect(status).toBe(200);
    expect(JSON.parse(body).InstanceProfileArn).toContain("ImdsProxyTestRole");
    expect(body).not.toContain(node.secrets.marker);
    expect(body).not.toContain(node.roleName);
  });

  test("listings do not name what alice cannot read", async () => {
    const { body } = await getWithToken(node, alice, "/latest/meta-data/");
    expect(body.split("\n")).toContain("placement/");
    expect(body).not.toMatch(/identity-credentials|managed-ssh-keys/);
    expect((await getWithToken(node, alice, "/latest/")).body).not.toContain("user-data");
    expect((await getWithToken(node, alice, "/latest/meta-data/iam/")).body).not.toContain("extended");
  });

  test("no route to the agent or to EC2's service is open to alice", async () => {
    for (const url of ["http://169.254.0.2:9081", "http://127.0.0.1:254", "http://[::1]:254"]) {
      const answer = await curl(
        node,
        alice,
        `${url}/latest/meta-data/iam/security-credentials/${node.roleName}`,
      );
      expect([url, answer.status]).toEqual([url, 0]);
      expect([7, 56]).toContain(answer.exitCode);
    }
  });

  test("nothing of alice's requests reached the upstream but what the proxy built anew", async () => {
    await node.agent?.clearLog();
    await curl(node, alice, `${IMDS4}/latest/meta-data/hostname?x=1`, [
      "-H",
      "X-Odd: alice",
      "-A",
      "alice's agent",
    ]);
    for (const { headers, target } of (await node.agent?.log()) ?? []) {
      expect(target).not.toContain("?");
      expect(JSON.stringify(headers)).not.toContain("alice");
    }
  });
});

describeAsRoot("a killed proxy", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode();
  });
  afterAll(() => proxied.node.stop());

  test("leaves alice with a refused connection and root with the instance role; started again, tokens go on", async () => {
    const { node } = proxied;
    const token = await tokenOf(node, alice, 21_600);
    const region = (headers: string[]) =>
      curl(node, alice, `${IMDS4}/latest/meta-data/placement/region`, headers);
    expect((await region(["-H", `${TOKEN_HEADER}: ${token}`])).body).toBe("us-west-2");

    await proxied.proxy.stop("SIGKILL");
    for (const base of [IMDS4, IMDS6, "http://169.254.0.2:9081"]) {
      const refused = await curl(
        node,
        alice,
        `${base}/latest/meta-data/iam/security-credentials/${node.roleName}`,
      );
      expect([base, refused.status, refused.exitCode]).toEqual([base, 0, 7]);
    }
    expect(await sdkArn(node, root)).toBe(INSTANCE_ROLE);
    // Nobody can stand in for it: the port is privileged.
    const bind = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 254))";
    const squatter = await node.exec({ ...alice, argv: ["/usr/bin/python3", "-c", bind] });
    expect(squatter.stderr).toContain("Permission denied");

    await proxied.restart();
    expect((await region(["-H", `${TOKEN_HEADER}: ${token}`])).body).toBe("us-west-2");
    expect(await sdkArn(node, alice)).toBe(aliceArn());
  });

  test("SIGTERM ends it with exit 0 and the same refusal", async () => {
    expect((await proxied.proxy.stop("SIGTERM")).exitCode).toBe(0);
    expect((await curl(proxied.node, alice, `${IMDS4}/latest/`)).exitCode).toBe(7);
    await proxied.restart();
    expect(await sdkArn(proxied.node, alice)).toBe(aliceArn());
  });
});

/** What the node's nat OUTPUT looks like when `apply` comes, or afterwards. */
const grounds: [
  name: string,
  before: (node: SimulatedNode) => Promise<unknown>,
  after: (node: SimulatedNode) => Promise<unknown>,
][] = [
  ["on top of the original entry", async () => {}, async () => {}],
  [
    "without the original entry",
    (node) => mustExec(node, root, ["iptables", "-t", "nat", "-D", "OUTPUT", ...ORIGINAL_ENTRY]),
    async () => {},
  ],
  [
    "with the original entry coming back above ours",
    async () => {},
    (node) => mustExec(node, root, ["iptables", "-t", "nat", "-I", "OUTPUT", "1", ...ORIGINAL_ENTRY]),
  ],
];

for (const [name, before, after] of grounds) {
  for (const iptables of ["nft", "legacy"] as const) {
    describeAsRoot(`iptables-${iptables} apply ${name}`, () => {
      let node: SimulatedNode;
      beforeAll(async () => {
        ({ node } = await startProxiedNode({ iptables, users: [{ name: "alice", uid: 2001 }] }, {}, before));
        await after(node);
      });
      afterAll(() => node.stop());

      test("alice never reaches the instance role", async () => {
        for (const url of [IMDS4, IMDS6, "http://169.254.0.2:9081"]) {
          const answer = await curl(
            node,
            alice,
            `${url}/latest/meta-data/iam/security-credentials/${node.roleName}`,
          );
          expect(answer.body).not.toContain(node.secrets.marker);
          expect([0, 404, 401]).toContain(answer.status);
        }
      });

      test("root always does", async () => {
        expect(await sdkArn(node, root)).toBe(INSTANCE_ROLE);
        expect((await credentialsOf(node, root, IMDS6)).body).toContain(node.secrets.role.secretAccessKey);
      });

      test("alice gets her role once the rules are in their place", async () => {
        await applyRules(node);
        expect(await sdkArn(node, alice)).toBe(aliceArn());
      });
    });
  }
}

describeAsRoot("the main job on a plain EC2 node", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ kind: "ec2", imdsMode: { tokens: "required" } });
  });
  afterAll(() => proxied.node.stop());

  test("alice is the substitute role, root the instance role, where the service requires tokens", async () => {
    expect(await awsArn(proxied.node, alice)).toBe(aliceArn());
    expect(await awsArn(proxied.node, root)).toBe(INSTANCE_ROLE);
  });

  test("a request without a token is 401, as the node's own service would answer", async () => {
    expect((await curl(proxied.node, alice, `${IMDS4}/latest/meta-data/placement/region`)).status).toBe(401);
  });
});
