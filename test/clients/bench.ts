/** A simulated node with every client on it, and what one run of a client came to. */
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import type { Running } from "../../src/demo/run.ts";
import { TEST_ROLE } from "../support/node.ts";
import { eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { CACHE, FIXTURES } from "./install.ts";
import type { Client } from "./list.ts";

/** One run of a client, once. */
export interface Outcome {
  /** The session's name, `SageMaker` for the instance role; null where it got no credentials that anybody knows. */
  readonly who: string | null;
  readonly exitCode: number;
  readonly timedOut: boolean;
  readonly seconds: number;
  /** The line that tells a person what is wrong; the last one where none does. */
  readonly says: string;
  /** Everything that it wrote. */
  readonly output: string;
  /** The routes that this user asked for, in order, as the proxy names them, with the status where it is not 200. */
  readonly requests: readonly string[];
}

/** A client that runs and answers once for each line of its standard input. */
export interface Held {
  readonly client: Client;
  /** Asks once more; who it is and with which key. */
  ask(): Promise<{ who: string | null; key: string }>;
}

export interface Bench {
  readonly proxied: ProxiedNode;
  once(client: Client, user: string, timeoutMs?: number): Promise<Outcome>;
  hold(client: Client, user: string): Held;
  version(client: Client): Promise<string>;
  /** The sessions that the proxy has had, by access key: their names. */
  sessions(): Map<string, { name: string; endsMs: number }>;
  configure(more: object): Promise<void>;
  stop(): Promise<void>;
}

const S3_LOG = "/run/s3.log";
const S3 = "http://127.0.0.1:9000";
export const REFUSED = { name: "refused", uid: 3001 };
export const DENIED = { name: "denied", uid: 3002 };
/** A user for each run that must be somebody's first. */
const FIRST = Array.from({ length: 600 }, (_, index) => ({ name: `first${index}`, uid: 4000 + index }));
const USERS = [{ name: "alice", uid: 2001 }, REFUSED, DENIED, ...FIRST];
let nextFirst = 0;
export const someone = (): string => FIRST[nextFirst++ % FIRST.length]?.name ?? "";
const uidOf = (user: string) => (user === "root" ? 0 : (USERS.find(({ name }) => name === user)?.uid ?? -1));

const RULES = [
  { name: "refused", match: { user: [REFUSED.name] }, role: "none" },
  { name: "denied", match: { user: [DENIED.name] }, role: "arn:aws:iam::842413447717:role/DeniedRole" },
];

/** s3fs mounts, which needs the kernel's device: the node gets its own, which everybody may open, as Debian's udev makes it. */
const FUSE = `
mknod -m 666 /run/fuse c 10 229 2>/dev/null && mount --bind /run/fuse /dev/fuse || true
`;

export async function startBench(): Promise<Bench> {
  let config: object = { rules: RULES, log: { level: "debug", format: "json" } };
  const proxied = await startProxiedNode(
    {
      users: USERS,
      show: { "/run/clients": CACHE, "/run/programs": FIXTURES },
      stsMode: { roles: { [TEST_ROLE]: { trusts: ["*"] } } },
    },
    { ...config, imds: { tokens: "optional" } },
  );
  const { node } = proxied;
  await node.exec({ user: "root", argv: ["sh", "-c", FUSE] });
  writeFileSync(node.path(S3_LOG), "");
  mkdirSync(node.path("/run/ask"));
  node.spawn({
    user: "root",
    argv: ["/usr/bin/python3", "/run/programs/s3.py", "127.0.0.1", "9000", S3_LOG],
    timeoutMs: 0,
  });
  await eventually("the S3 endpoint answers", async () => {
    const { exitCode } = await node.exec({ user: "root", argv: ["curl", "-s", "-o", "/dev/null", S3] });
    return exitCode === 0;
  });
  /** What the proxies before this one wrote. */
  let before = "";
  const log = () => before + proxied.proxy.output();
  const s3Log = () => readFileSync(node.path(S3_LOG), "utf8").split("\n").slice(0, -1);

  const sessions = () => {
    const found = new Map([[node.secrets.role.accessKeyId, { name: "SageMaker", endsMs: Infinity }]]);
    for (const line of linesOf(log())) {
      if (line["message"] !== "session") continue;
      const { accessKeyId, sessionName, expires } = line as Record<string, string>;
      found.set(String(accessKeyId), { name: String(sessionName), endsMs: Date.parse(String(expires)) });
    }
    return found;
  };

  /** Who the client is by what it printed and, where it signs for S3, by the key that the endpoint saw last. */
  const identityOf = (client: Client, line: string, s3From: number) => {
    const [arn = "", printed = ""] = line.trim().split(/\s+/);
    if (client.proof === "sts")
      return { who: arn.startsWith("arn:aws:sts:") ? (arn.split("/").at(-1) ?? null) : null, key: printed };
    const signed = s3Log()
      .slice(s3From)
      .filter((entry) => entry.startsWith(`${client.id} `))
      .map((entry) => entry.split(" ")[1] ?? "");
    const key = client.proof === "key" ? printed : (signed.at(-1) ?? "");
    return { who: sessions().get(key)?.name ?? null, key };
  };

  const command = (client: Client) => client.argv({ sts: node.stsEndpoint, s3: S3 });

  return {
    proxied,
    sessions,
    async once(client, user, timeoutMs = 120_000) {
      const [logFrom, s3From] = [log().length, s3Log().length];
      const beganMs = performance.now();
      const result = await node.exec({ user, argv: command(client), stdin: "ask\n", timeoutMs });
      const seconds = (performance.now() - beganMs) / 1000;
      const requests = linesOf(log().slice(logFrom))
        .filter(({ message, subject }) => message === "request" && subject === uidOf(user))
        .map(({ route, status }) => `${route}${status === 200 ? "" : ` ${status}`}`);
      return {
        who: identityOf(client, result.stdout.trim().split("\n").at(-1) ?? "", s3From).who,
        exitCode: result.exitCode,
        timedOut: result.timedOut,
        seconds,
        says: telling(result.stderr) || telling(result.stdout),
        output: `${result.stdout}${result.stderr}`,
        requests,
      };
    },
    hold(client, user) {
      const file = `/run/ask/${client.id}`;
      node.write(file, "", 0o644);
      const running: Running = node.spawn({
        user,
        argv: [
          "sh",
          "-c",
          'file=$1; shift; tail --follow --lines=+1 "$file" | { "$@"; echo "ended with $?"; }',
          "sh",
          file,
          ...command(client),
        ],
        timeoutMs: 0,
      });
      let asked = 0;
      return {
        client,
        async ask() {
          const s3From = s3Log().length;
          appendFileSync(node.path(file), "ask\n");
          asked++;
          const answers = () => running.stdout().split("\n").slice(0, -1);
          await eventually(
            `${client.id} answers ${asked} times`,
            () => {
              const ended = answers().find((line) => line.startsWith("ended with"));
              if (ended !== undefined) throw new Error(`${client.id} ${ended}: ${running.stderr().trim()}`);
              return answers().length >= asked;
            },
            60_000,
          );
          return identityOf(client, answers()[asked - 1] ?? "", s3From);
        },
      };
    },
    async version(client) {
      if (typeof client.version === "string") return client.version;
      // Of the machine: the node shows no /var/lib.
      return Bun.spawnSync([...client.version])
        .stdout.toString()
        .trim();
    },
    async configure(more) {
      config = { ...JSON.parse(readFileSync(node.path("/etc/imdsproxy/config.yaml"), "utf8")), ...more };
      node.write("/etc/imdsproxy/config.yaml", JSON.stringify(config));
      before = log();
      await proxied.proxy.stop();
      await proxied.restart();
    },
    stop: () => node.stop(),
  };
}

function linesOf(text: string): Record<string, unknown>[] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("{") && line.endsWith("}"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** Words of a line that tells what is wrong, and lines that only look so: the path through the program. */
const TELLS = /NoCredentialProviders|credential|refuse|denied|unable|could not|cannot|fail|404 Not Found/i;
const ON_THE_WAY =
  /^WARNING: |^SLF4J|^For verbose|^\S*\/\S+:\d+$|^\s*(?:at |from |File |raise |\^|[\w$.]+ = |\S+\()|deprecat|NOTICE|^\d{1,3}: /i;

function telling(text: string): string {
  const lines = text.split("\n").filter((line) => TELLS.test(line) && !ON_THE_WAY.test(line));
  // A traceback of Python ends with it; others begin with it.
  const found = text.startsWith("Traceback") ? lines.at(-1) : lines[0];
  return found?.trim() ?? lastLine(text);
}

const lastLine = (text: string) => text.trim().split("\n").at(-1)?.trim() ?? "";
