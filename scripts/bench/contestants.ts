import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { curl, IMDS4, startTestNode } from "../../test/support/node.ts";
import { applyRules, eventually, testConfig, tokenOf } from "../../test/support/proxied.ts";
import type { NodeOptions, SimulatedNode } from "../../test/support/simulated-node.ts";

/** What is asked for, by name. */
export const LOADS = {
  credentials: "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole",
  metadata: "/latest/meta-data/placement/region",
  tokens: "/latest/api/token",
} as const;
export type Load = keyof typeof LOADS;

/** What is asked, and how. */
export interface Row {
  readonly load: Load;
  /** A connection for each request, which the client asks to be closed; else 64 connections are kept. */
  readonly isNew: boolean;
  /** By IMDSv2: with a token. The request for a token itself has none. */
  readonly withToken: boolean;
}

/** A server on a node of its own, which ordinary users reach at 169.254.169.254, through the same redirect as the others. */
export interface Contestant {
  readonly name: string;
  readonly node: SimulatedNode;
  /** The process that answers. */
  readonly pid: number;
  /** A token for alice that it takes, good for hours. */
  readonly token: string;
  /** Whether it has an answer for a row; default every one. */
  serves?(row: Row): boolean;
  stop(): Promise<void>;
}

export const ALICE = { user: "alice" } as const;
const ROOT = { user: "root" } as const;
/** As long as those of real sessions are. */
const SESSION_TOKEN_LENGTH = 1_200;
/** With what the open loop and the minimal server need. */
export const NODE: NodeOptions = {
  stsMode: { sessionTokenLength: SESSION_TOKEN_LENGTH },
  show: { "/run/imdsproxy-bench": process.cwd(), "/run/bin/bun": process.execPath },
};
/** Named, because a build of before may have another default. One user makes all connections, so that there is no limit for one. */
const CONFIG = { listen: "127.0.0.1:254", imds: { tokens: "optional" } };
const NO_LIMIT = { limits: { newConnectionsPerUser: null, trackedConnectionsPerUser: null } };

/**
 * @param executable null for dist/imdsproxy.
 * @param more further keys of the configuration.
 * @param env of `serve`.
 */
export async function startProxy(
  name: string,
  executable: string | null,
  more: object = {},
  env: Readonly<Record<string, string>> = {},
): Promise<Contestant> {
  const node = await startTestNode(executable === null ? NODE : { ...NODE, executable });
  try {
    await configure(node, more);
    const proxy = await node.startProxy({ env });
    const token = await tokenOf(node, ALICE, 21_600);
    await eventually("there are credentials", async () => (await bodyOf(node, LOADS.credentials)) !== null);
    return { name, node, pid: proxy.pid, token, stop: () => node.stop() };
  } catch (error) {
    await node.stop();
    throw error;
  }
}

/** Writes the configuration and applies the rules; builds from before there were limits of connections do not know their keys. */
export async function configure(node: SimulatedNode, more: object = {}): Promise<void> {
  for (const config of [
    { ...CONFIG, ...NO_LIMIT, ...more },
    { ...CONFIG, ...more },
  ]) {
    node.write("/etc/imdsproxy/config.yaml", JSON.stringify(testConfig(node, config)));
    const { exitCode } = await node.exec({ ...ROOT, argv: ["/run/bin/imdsproxy", "config", "check"] });
    if (exitCode === 0) break;
  }
  await applyRules(node);
}

async function bodyOf(node: SimulatedNode, path: string): Promise<string | null> {
  const { status, body } = await curl(node, ALICE, IMDS4 + path);
  return status === 200 ? body : null;
}

/** What all contestants answer, by path. */
export type Bodies = Readonly<Record<string, string>>;

/** The bodies that a proxy gives, for the others to give the same. */
export async function bodiesOf({ node, token }: Contestant): Promise<Record<string, string>> {
  const bodies: Record<string, string> = { [LOADS.tokens]: token };
  for (const path of [LOADS.credentials, LOADS.metadata]) bodies[path] = (await bodyOf(node, path)) ?? "";
  return bodies;
}

/** nginx with one worker, and answers that stand in its configuration. */
export function startNginx(bodies: Bodies): Promise<Contestant> {
  const locations = Object.entries(bodies).map(
    ([path, body]) => `location = ${path} { default_type text/plain; return 200 '${body}'; }`,
  );
  const config = `worker_processes 1; daemon off; error_log /dev/null; pid /run/nginx.pid; user root;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 100000000;
  client_body_temp_path /run/n1; proxy_temp_path /run/n2; fastcgi_temp_path /run/n3; uwsgi_temp_path /run/n4; scgi_temp_path /run/n5;
  server { listen 127.0.0.1:254 backlog=4096; ${locations.join("\n")} } }
`;
  return startOther("nginx", { "/run/nginx.conf": config }, ["nginx", "-c", "/run/nginx.conf"]);
}

/** scripts/bench/hello.ts. */
export const startHello = (bodies: Bodies): Promise<Contestant> => startHelloAs("bun", bodies, []);

/** The same, where it asks the kernel whose each connection is. */
export const startIdentifyingHello = (bodies: Bodies): Promise<Contestant> =>
  startHelloAs("bun + netlink", bodies, ["identify"]);

const startHelloAs = (name: string, bodies: Bodies, how: readonly string[]): Promise<Contestant> =>
  startOther(name, { "/run/bodies.json": JSON.stringify(bodies) }, [
    "/run/bin/bun",
    "/run/imdsproxy-bench/scripts/bench/hello.ts",
    "254",
    "/run/bodies.json",
    ...how,
  ]);

/**
 * Another server on a node of its own, which listens at 127.0.0.1, port 254.
 *
 * @param files what is written on the node first, by path.
 * @param beside a command that runs beside it.
 */
export async function startOther(
  name: string,
  files: Readonly<Record<string, string>>,
  argv: readonly string[],
  beside: readonly string[] | null = null,
): Promise<Contestant> {
  const node = await startTestNode(NODE);
  try {
    await configure(node);
    for (const [path, text] of Object.entries(files)) node.write(path, text);
    if (beside !== null) node.spawn({ ...ROOT, argv: beside, timeoutMs: 0 });
    const running = node.spawn({ ...ROOT, argv, timeoutMs: 0 });
    await eventually(
      `${name} answers`,
      async () => (await curl(node, ALICE, IMDS4 + LOADS.metadata)).status !== 0,
    );
    const pid = running.pid();
    if (pid === null) throw new Error(`${name} has ended: ${running.stderr()}`);
    return { name, node, pid: workerOf(pid), token: "x".repeat(56), stop: () => node.stop() };
  } catch (error) {
    await node.stop();
    throw error;
  }
}

/** The child of a master process that does its work; the process itself where it has none. */
function workerOf(pid: number): number {
  const tasks = readdirSync(`/proc/${pid}/task`).map((task) => join(`/proc/${pid}/task`, task, "children"));
  const children = tasks.flatMap((file) => readFileSync(file, "utf8").trim().split(" ").filter(Boolean));
  return children.length > 0 ? Number(children[0]) : pid;
}
