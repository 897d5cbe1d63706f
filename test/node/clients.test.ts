import { afterAll, beforeAll, expect, test } from "bun:test";
import { resolve } from "node:path";
import { awsArn, curl, IMDS4, mustExec, patiently } from "../support/node.ts";
import { sdkArn, startProxiedNode, TOKEN_HEADER } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import type { SimulatedNode } from "../support/simulated-node.ts";

const REPOSITORY = resolve(import.meta.dir, "../..");
const alice = { user: "alice" };
const root = { user: "root" };
const ALICE = "arn:aws:sts::842413447717:assumed-role/ImdsProxyTestRole/alice@i-0123456789abcdef0";
const INSTANCE = "arn:aws:sts::842413447717:assumed-role/MySageMakerClusterInstanceRole/SageMaker";

/** boto3 with its own IMDS client, as a Debian user has it. */
const BOTO3 = `
import boto3, sys
print(boto3.client("sts", region_name="us-west-2", endpoint_url=sys.argv[1]).get_caller_identity()["Arn"])
`;

/** One request from an IPv6 socket to the given address; the answer's status line and body. */
const SOCKET6 = `
import socket, sys
s = socket.socket(socket.AF_INET6)
s.settimeout(10)
s.connect((sys.argv[1], 80))
s.sendall(("GET %s HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % (sys.argv[2], sys.argv[3])).encode())
answer = b""
while True:
    chunk = s.recv(65536)
    if not chunk:
        break
    answer += chunk
print(answer.decode("latin1"))
`;

describeAsRoot("real clients through the redirect", () => {
  let node: SimulatedNode;
  beforeAll(async () => {
    ({ node } = await startProxiedNode({
      show: { "/run/repository": REPOSITORY, "/run/bin/bun": process.execPath },
    }));
  });
  afterAll(() => node.stop());

  const says = (who: { user: string }, argv: readonly string[], env: Record<string, string>) =>
    patiently(async () => (await mustExec(node, who, argv, { env })).trim());
  const boto3 = (who: { user: string }, env: Record<string, string> = {}) =>
    says(who, ["/usr/bin/python3", "-c", BOTO3, node.stsEndpoint], env);
  const provider = (who: { user: string }, env: Record<string, string> = {}) =>
    says(who, ["/run/bin/bun", "/run/repository/test/support/clients/provider.ts", node.stsEndpoint], env);

  test("the AWS CLI of Debian: alice the substitute role, root the instance role", async () => {
    expect(await awsArn(node, alice)).toBe(ALICE);
    expect(await awsArn(node, root)).toBe(INSTANCE);
  });

  test("boto3 of Debian: alice the substitute role, root the instance role", async () => {
    expect(await boto3(alice)).toBe(ALICE);
    expect(await boto3(root)).toBe(INSTANCE);
  });

  test("boto3 over IPv6", async () => {
    expect(await boto3(alice, { AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: "IPv6" })).toBe(ALICE);
  });

  test("@aws-sdk/credential-providers of npm: alice the substitute role, root the instance role", async () => {
    expect(await provider(alice)).toBe(ALICE);
    expect(await provider(root)).toBe(INSTANCE);
  });

  test("@aws-sdk/credential-providers over IPv6", async () => {
    expect(await provider(alice, { AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: "IPv6" })).toBe(ALICE);
  });

  test("the SDK's default chain in the executable itself", async () => {
    expect(await sdkArn(node, alice)).toBe(ALICE);
  });

  test("a caller without an account is the uid that the kernel says", async () => {
    expect(await sdkArn(node, { uid: 54_321 })).toMatch(/ImdsProxyTestRole\/uid=54321@i-0123456789abcdef0/);
  });

  const ask6 = (address: string, path: string, host: string) =>
    mustExec(node, alice, ["/usr/bin/python3", "-c", SOCKET6, address, path, host]);
  const sockets: [name: string, address: string, host: string][] = [
    ["an IPv4-mapped socket, as Java's", "::ffff:169.254.169.254", "169.254.169.254"],
    ["an IPv6 socket", "fd00:ec2::254", "[fd00:ec2::254]"],
  ];
  for (const [name, address, host] of sockets) {
    test(`a caller on ${name} is alice`, async () => {
      const list = await ask6(address, "/latest/meta-data/iam/security-credentials/", host);
      expect(list).toStartWith("HTTP/1.1 200 OK");
      expect(list.trim()).toEndWith("\r\n\r\nImdsProxyTestRole");
      const credentials = await ask6(
        address,
        "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole",
        host,
      );
      expect(credentials).toContain("SESSION/ImdsProxyTestRole/");
      const byName = await ask6(address, `/latest/meta-data/iam/security-credentials/${node.roleName}`, host);
      expect(byName).toStartWith("HTTP/1.1 404");
      expect(byName).not.toContain(node.secrets.marker);
    });
  }

  test("ten requests on one kept connection are all answered, in order", async () => {
    const paths = Array.from({ length: 10 }, (_, index) =>
      index % 2 === 0 ? "placement/region" : "instance-id",
    );
    const urls = paths.map((path) => `${IMDS4}/latest/meta-data/${path}`);
    const told = await mustExec(node, alice, ["curl", "-s", "-w", "=%{num_connects}\n", ...urls]);
    const lines = told.trim().split("\n");
    expect(lines.map((line) => line.split("=")[0])).toEqual(
      paths.map((path) => (path === "instance-id" ? "i-0123456789abcdef0" : "us-west-2")),
    );
    expect(lines.map((line) => line.split("=")[1])).toEqual(["1", ...Array(9).fill("0")]);
  });

  test("whoami tells alice her role, and no secret", async () => {
    const told = await mustExec(node, alice, ["/run/bin/imdsproxy", "whoami"]);
    expect(told).toContain("alice");
    expect(told).toContain("2001");
    expect(told).toContain("ImdsProxyTestRole");
    expect(told).not.toMatch(/SESSION\/|SecretAccessKey/);
  });

  test("an old client that keeps a token for hours goes on after the upstream's restart", async () => {
    const put = await curl(node, alice, `${IMDS4}/latest/api/token`, [
      "-X",
      "PUT",
      "-H",
      "X-aws-ec2-metadata-token-ttl-seconds: 21600",
    ]);
    await node.agent?.set({ fault: "refuse" });
    await node.agent?.set({ fault: "none" });
    const answer = await curl(node, alice, `${IMDS4}/latest/meta-data/local-hostname`, [
      "-H",
      `${TOKEN_HEADER}: ${put.body}`,
    ]);
    expect(answer.status).toBe(200);
  });
});
