import type { RunningProxy } from "../../src/demo/proxy.ts";
import { type CurlAnswer, curl, IMDS4, mustExec, patiently, startTestNode, TEST_ROLE } from "./node.ts";
import type { NodeOptions, SimulatedNode, Who } from "./simulated-node.ts";

/** The configuration of the documentation that this project began from: one role for everyone but root. */
export function testConfig(node: SimulatedNode, more: object = {}): object {
  return { role: TEST_ROLE, sts: { endpoint: node.stsEndpoint }, metrics: null, ...more };
}

/** A node with the rules applied and the proxy serving. */
export interface ProxiedNode {
  readonly node: SimulatedNode;
  /** The proxy that runs now; replaced by restart. */
  proxy: RunningProxy;
  /** Starts the proxy again, with the configuration that is there. */
  restart(): Promise<void>;
}

/** Builds a node, applies the rules and starts the proxy, as `setup` leaves a node. */
export async function startProxiedNode(
  options: NodeOptions = {},
  config: object = {},
  beforeApply: (node: SimulatedNode) => Promise<unknown> = async () => {},
): Promise<ProxiedNode> {
  const node = await startTestNode(options);
  try {
    await beforeApply(node);
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node, config)));
    await applyRules(node);
    const proxied: ProxiedNode = {
      node,
      proxy: await node.startProxy(),
      async restart() {
        proxied.proxy = await node.startProxy();
      },
    };
    return proxied;
  } catch (error) {
    await node.stop();
    throw error;
  }
}

/** `imdsproxy iptables apply`, as root. */
export const applyRules = (node: SimulatedNode): Promise<string> =>
  mustExec(node, { user: "root" }, ["/run/bin/imdsproxy", "iptables", "apply"]);

/** What a token PUT wants to know. */
export const TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds";
export const TOKEN_HEADER = "X-aws-ec2-metadata-token";

/** A token, as an SDK asks for it. */
export async function tokenOf(node: SimulatedNode, who: Who, ttlSeconds = 60, base = IMDS4): Promise<string> {
  const answer = await curl(node, who, `${base}/latest/api/token`, [
    "-X",
    "PUT",
    "-H",
    `${TTL_HEADER}: ${ttlSeconds}`,
  ]);
  if (answer.status !== 200) throw new Error(`PUT of a token: ${answer.status} (curl ${answer.exitCode})`);
  return answer.body;
}

/** A GET with a token of the caller's own. */
export async function getWithToken(
  node: SimulatedNode,
  who: Who,
  path: string,
  base = IMDS4,
): Promise<CurlAnswer> {
  const token = await tokenOf(node, who, 60, base);
  return curl(node, who, base + path, ["-H", `${TOKEN_HEADER}: ${token}`]);
}

/** The caller's credentials by hand: token, list, role, as SDKs do it. */
export async function credentialsOf(node: SimulatedNode, who: Who, base = IMDS4): Promise<CurlAnswer> {
  const token = await tokenOf(node, who, 60, base);
  const header = ["-H", `${TOKEN_HEADER}: ${token}`];
  const list = await curl(node, who, `${base}/latest/meta-data/iam/security-credentials/`, header);
  if (list.status !== 200) return list;
  return curl(node, who, `${base}/latest/meta-data/iam/security-credentials/${list.body}`, header);
}

/**
 * The same, once the proxy gives some: it tells who has waited for three seconds to come back (503), as happens where the machine
 * is busy. Whatever else it answers is returned.
 */
export async function givenCredentials(node: SimulatedNode, who: Who, base = IMDS4): Promise<CurlAnswer> {
  let answer = await credentialsOf(node, who, base);
  await eventually("the proxy does not say 503", async () => {
    if (answer.status !== 503) return true;
    answer = await credentialsOf(node, who, base);
    return false;
  });
  return answer;
}

/** What this user is in STS's eyes, by the SDK that the executable has in it; where it finds no credentials, it asks again. */
export function sdkArn(node: SimulatedNode, who: Who): Promise<string> {
  const argv = [
    "/run/bin/imdsproxy",
    "demo-ask",
    "--region",
    "us-west-2",
    "--sts-endpoint",
    node.stsEndpoint,
  ];
  return patiently(async () => {
    const answer = JSON.parse(await mustExec(node, who, argv)) as { arn?: string; message?: string };
    if (answer.arn === undefined) throw new Error(`the SDK says: ${answer.message}`);
    return answer.arn;
  });
}

/** The AssumeRole requests that reached STS, by their session names. */
export async function assumed(node: SimulatedNode): Promise<string[]> {
  const log = await node.sts.log();
  return log
    .filter(({ action }) => action === "AssumeRole")
    .map(({ parameters }) => parameters["RoleSessionName"] ?? "");
}

/**
 * Waits until a condition holds; rejects with `what` where it does not within the limit, which is by default far longer than anything takes
 * on a machine that is busy.
 */
export async function eventually(
  what: string,
  holds: () => Promise<boolean> | boolean,
  withinMs = 90_000,
): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!(await holds())) {
    if (performance.now() > endMs) throw new Error(`did not come true in ${withinMs} ms: ${what}`);
    await Bun.sleep(50);
  }
}
