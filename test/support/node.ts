import { closeSync, existsSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { resolve } from "node:path";
import type { RunningProxy } from "../../src/demo/proxy.ts";
import type { RunResult } from "../../src/demo/run.ts";
import { type NodeOptions, type SimulatedNode, startNode, type Who } from "./simulated-node.ts";

/** The executable under test: what `make build` makes, or another that IMDSPROXY_EXECUTABLE names. */
export const EXECUTABLE =
  process.env["IMDSPROXY_EXECUTABLE"] ?? resolve(import.meta.dir, "../../dist/imdsproxy");

/** The role of the documentation that this project began from. */
export const TEST_ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";

/** The metadata service's addresses, as URLs. */
export const IMDS4 = "http://169.254.169.254";
export const IMDS6 = "http://[fd00:ec2::254]";

/** Milliseconds after which a command on the node is ended, unless the test says otherwise. */
const COMMAND_MS = 120_000;

/**
 * A simulated node with the built executable on it; the tests import the module that `demo` ships. Its startProxy() waits until
 * the proxy has said that it is ready: the first port listens a moment before those of IPv6 and of the metrics.
 */
export async function startTestNode(options: NodeOptions = {}): Promise<SimulatedNode> {
  if (!existsSync(EXECUTABLE)) throw new Error(`${EXECUTABLE} is missing: run make build`);
  const node = await startNode({ executable: EXECUTABLE, ...options });
  return {
    ...node,
    exec: (command) => node.exec({ timeoutMs: COMMAND_MS, ...command }),
    spawn: (command) => node.spawn({ timeoutMs: COMMAND_MS, ...command }),
    async startProxy(proxyOptions) {
      const proxy = await node.startProxy(proxyOptions);
      await ready(proxy);
      return proxy;
    },
  };
}

const READY_WITHIN_MS = 30_000;

async function ready(proxy: RunningProxy): Promise<void> {
  let hasEnded = false;
  void proxy.done.then(() => {
    hasEnded = true;
  });
  const endMs = performance.now() + READY_WITHIN_MS;
  while (!hasEnded && !proxy.output().includes('"ready"')) {
    if (performance.now() > endMs) throw new Error(`the proxy listens and is not ready: ${proxy.output()}`);
    await Bun.sleep(5);
  }
}

/** What a command wrote, if it ended well; else an error with everything that it said. */
export async function mustExec(
  node: SimulatedNode,
  who: Who,
  argv: readonly string[],
  more: { stdin?: string; env?: Record<string, string>; timeoutMs?: number } = {},
): Promise<string> {
  const result = await node.exec({ ...who, argv, ...more });
  if (result.exitCode !== 0) {
    throw new Error(`${argv.join(" ")}: exit ${result.exitCode}\n${result.stdout}${result.stderr}`);
  }
  return result.stdout;
}

/** `aws sts get-caller-identity` by Debian's AWS CLI, with nothing but the metadata service to get credentials from. */
export function awsCallerIdentity(node: SimulatedNode, who: Who): Promise<RunResult> {
  const argv = [
    "/usr/bin/aws",
    "sts",
    "get-caller-identity",
    "--endpoint-url",
    node.stsEndpoint,
    "--output",
    "json",
  ];
  return node.exec({ ...who, argv });
}

/** The ARN in the answer of awsCallerIdentity, or an error with what the CLI said. */
export async function awsArnAtFirstTry(node: SimulatedNode, who: Who): Promise<string> {
  const { exitCode, stdout, stderr } = await awsCallerIdentity(node, who);
  if (exitCode !== 0) throw new Error(`aws sts get-caller-identity: exit ${exitCode}\n${stderr}`);
  return (JSON.parse(stdout) as { Arn: string }).Arn;
}

/** The same, for who asks again where the CLI found no credentials in time. */
export const awsArn = (node: SimulatedNode, who: Who): Promise<string> =>
  patiently(() => awsArnAtFirstTry(node, who));

const PATIENCE_MS = 90_000;
/** What botocore and the SDK for JavaScript say where no credentials came, or not in time. */
const NO_CREDENTIALS =
  /Unable to locate credentials|Could not load credentials|TimeoutError|response received from instance metadata/;

/**
 * Asks again where a client found no credentials. Most wait for one second, once, which a busy machine may take; test/node/slow-sts.test.ts
 * is about the first try, and the other tests about what comes of it. No other failure is tried again, nor is a wrong answer.
 */
export async function patiently<Answer>(ask: () => Promise<Answer>): Promise<Answer> {
  const endMs = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!NO_CREDENTIALS.test(String(error)) || performance.now() > endMs) throw error;
    }
  }
}

/** An answer as curl prints it. */
export interface CurlAnswer {
  /** 0 where no answer came. */
  readonly status: number;
  readonly headers: Headers;
  readonly body: string;
  /** curl's own exit code: 7 is "connection refused", 56 "connection reset", 28 "timed out". */
  readonly exitCode: number;
}

/** One request by curl on the node. `--path-as-is`: what is written is what is sent. */
export async function curl(
  node: SimulatedNode,
  who: Who,
  url: string,
  more: readonly string[] = [],
): Promise<CurlAnswer> {
  const argv = [
    "curl",
    "--silent",
    "--include",
    "--globoff",
    "--path-as-is",
    "--max-time",
    "10",
    ...more,
    url,
  ];
  const { stdout, exitCode } = await node.exec({ ...who, argv });
  const end = stdout.indexOf("\r\n\r\n");
  const [statusLine = "", ...lines] = stdout.slice(0, Math.max(end, 0)).split("\r\n");
  const headers = new Headers();
  for (const line of lines) {
    const colon = line.indexOf(":");
    headers.append(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return {
    status: Number(statusLine.split(" ")[1] ?? 0),
    headers,
    body: end < 0 ? "" : stdout.slice(end + 4),
    exitCode,
  };
}

/** The network namespaces of a process and of everything below it, as `net:[4026531840]`. */
export function networkNamespaces(pids: Iterable<number>): Set<string> {
  const found = new Set<string>();
  for (const pid of pids) {
    try {
      found.add(readlinkSync(`/proc/${pid}/ns/net`));
    } catch {
      // It ended meanwhile.
    }
  }
  return found;
}

/** Every process of the machine. */
export function allPids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** What of the machine a node must leave as it is: rules without their counters, links, mounts, accounts. */
export function machineState(): unknown {
  const run = (...argv: string[]) => Bun.spawnSync(argv).stdout.toString();
  return {
    rules: run("iptables-save", "-t", "nat").replaceAll(/^#.*$|\[\d+:\d+\]/gm, ""),
    links: run("ip", "-o", "-brief", "link"),
    mounts: readFileSync("/proc/self/mountinfo", "utf8"),
    accounts: ["/etc/passwd", "/etc/group", "/etc/subuid"].map((file) => readFileSync(file, "utf8")),
  };
}

/** Waits until no process of the machine is in any of these network namespaces: then the kernel frees them. */
export async function namespacesGone(spaces: ReadonlySet<string>, withinMs: number): Promise<string[]> {
  const left = () => [...networkNamespaces(allPids())].filter((space) => spaces.has(space));
  for (let waitedMs = 0; left().length > 0 && waitedMs < withinMs; waitedMs += 20) await Bun.sleep(20);
  const found = left();
  for (const space of spaces) {
    const descriptor = kept.get(space);
    if (descriptor !== undefined) closeSync(descriptor);
    kept.delete(space);
  }
  return found;
}

/**
 * Descriptors of the namespaces of `namespacesBelow`, by name, until `namespacesGone` has looked for them: the kernel gives the
 * number of one that is freed to the next that is made, such as that of a test which runs beside this one.
 */
const kept = new Map<string, number>();

/** The network namespaces that a process and its children have made, this process's own aside. */
export function namespacesBelow(pids: Iterable<number>): Set<string> {
  const own = networkNamespaces([process.pid]);
  const spaces = new Set<string>();
  for (const pid of pids) {
    try {
      const descriptor = openSync(`/proc/${pid}/ns/net`, "r");
      const space = readlinkSync(`/proc/self/fd/${descriptor}`);
      if (own.has(space) || kept.has(space)) closeSync(descriptor);
      else kept.set(space, descriptor);
      if (!own.has(space)) spaces.add(space);
    } catch {
      // It ended meanwhile.
    }
  }
  return spaces;
}
