/**
 * `make bench`: how fast warm credentials are, as ratios within one run, because machines are noisy.
 *
 *   against nginx      its static `return` of a body of the same size, reached directly
 *   against direct     the metadata service's stand-in, as root reaches it
 *   against BEFORE     another build of this program: BEFORE=path/to/imdsproxy make bench
 *
 * Rounds alternate between the contestants; each figure is the median of its rounds. Needs root, wrk and nginx.
 */
import type { startNode } from "../src/demo/node.ts";
import type { RunningProxy } from "../src/demo/proxy.ts";
import { startProxiedNode, TOKEN_HEADER, tokenOf } from "../test/support/proxied.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const SECONDS = Number(process.env["SECONDS_EACH"] ?? 3);
const CONNECTIONS = 32;
const ROLE_PATH = "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole";
const NGINX = "http://127.0.0.1:8089/";

type Node = Awaited<ReturnType<typeof startNode>>;

const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
};

async function requestsPerSecond(
  node: Node,
  user: string,
  url: string,
  headers: readonly string[],
): Promise<number> {
  const argv = [
    "wrk",
    "-t1",
    `-c${CONNECTIONS}`,
    `-d${SECONDS}s`,
    ...headers.flatMap((header) => ["-H", header]),
    url,
  ];
  const { stdout, stderr } = await node.exec({ user, argv, timeoutMs: (SECONDS + 20) * 1000 });
  const rate = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
  if (!(rate > 0)) throw new Error(`wrk printed no rate: ${stdout}${stderr}`);
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(stdout)?.[1];
  if (bad !== undefined) throw new Error(`${bad} answers of ${url} were no success`);
  return rate;
}

async function credentialsLength(node: Node, token: string): Promise<number> {
  const argv = ["curl", "-sf", "-H", `${TOKEN_HEADER}: ${token}`, `http://169.254.169.254${ROLE_PATH}`];
  const { stdout, exitCode } = await node.exec({ user: "alice", argv });
  if (exitCode !== 0) throw new Error("no credentials to measure with");
  return stdout.length;
}

async function startNginx(node: Node, bodyLength: number): Promise<void> {
  node.write(
    "/run/nginx.conf",
    `worker_processes 1; daemon off; error_log /dev/null; pid /run/nginx.pid;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000;
  client_body_temp_path /run/n1; proxy_temp_path /run/n2; fastcgi_temp_path /run/n3; uwsgi_temp_path /run/n4; scgi_temp_path /run/n5;
  server { listen 127.0.0.1:8089 backlog=4096; location / { return 200 "${"x".repeat(bodyLength)}"; } } }
`,
  );
  node.spawn({ user: "root", argv: ["nginx", "-c", "/run/nginx.conf"], timeoutMs: 0 });
  await Bun.sleep(500);
}

interface Contestant {
  readonly name: string;
  readonly rate: (close: boolean) => Promise<number>;
}

async function contestantsOf(node: Node, name: string): Promise<Contestant> {
  const token = await tokenOf(node, { user: "alice" }, 21_600);
  const headers = [`${TOKEN_HEADER}: ${token}`];
  return {
    name,
    rate: (close) =>
      requestsPerSecond(node, "alice", `http://169.254.169.254${ROLE_PATH}`, [
        ...headers,
        ...(close ? ["Connection: close"] : []),
      ]),
  };
}

// Named, for a build of before may have another default.
const LISTEN = { listen: "127.0.0.1:254" };
const proxied = await startProxiedNode({}, LISTEN);
const before =
  process.env["BEFORE"] === undefined
    ? null
    : await startProxiedNode({ executable: process.env["BEFORE"] }, LISTEN);
const proxies: RunningProxy[] = [proxied.proxy, ...(before === null ? [] : [before.proxy])];
try {
  const { node } = proxied;
  const token = await tokenOf(node, { user: "alice" });
  await startNginx(node, await credentialsLength(node, token));
  const direct = (await tokenOf(node, { user: "root" }, 21_600)).trim();
  const ours = await contestantsOf(node, "imdsproxy");
  const others: Contestant[] = [
    {
      name: "nginx",
      rate: (close) => requestsPerSecond(node, "alice", NGINX, close ? ["Connection: close"] : []),
    },
    {
      name: "direct",
      rate: (close) =>
        requestsPerSecond(node, "root", "http://169.254.169.254/latest/meta-data/placement/region", [
          `${TOKEN_HEADER}: ${direct}`,
          ...(close ? ["Connection: close"] : []),
        ]),
    },
    ...(before === null ? [] : [await contestantsOf(before.node, "before")]),
  ];
  for (const close of [true, false]) {
    const rates = new Map<string, number[]>([ours, ...others].map(({ name }) => [name, []]));
    const ratios = new Map<string, number[]>(others.map(({ name }) => [name, []]));
    for (let round = 0; round < ROUNDS; round++) {
      const own = await ours.rate(close);
      rates.get(ours.name)?.push(own);
      for (const other of others) {
        const rate = await other.rate(close);
        rates.get(other.name)?.push(rate);
        ratios.get(other.name)?.push(own / rate);
      }
    }
    console.log(close ? "new connection for each request" : "kept connections");
    for (const [name, list] of rates)
      console.log(`  ${name.padEnd(10)} ${Math.round(median(list))} requests/s`);
    for (const [name, list] of ratios) {
      const spread = `${Math.min(...list).toFixed(2)} to ${Math.max(...list).toFixed(2)}`;
      console.log(`  imdsproxy / ${name}: ${median(list).toFixed(2)} (${spread}, ${ROUNDS} rounds)`);
    }
  }
} finally {
  for (const proxy of proxies) await proxy.stop();
  await proxied.node.stop();
  await before?.node.stop();
}
