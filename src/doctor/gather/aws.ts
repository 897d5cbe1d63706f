import { createHash, createHmac } from "node:crypto";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { askMetadata } from "../../client/metadata-address.ts";
import type { Config } from "../../config/schema.ts";
import { ImdsProxyError } from "../../errors.ts";
import { after, systemClock } from "../../platform/clock.ts";
import { parseRoleArn } from "../../sessions/arn.ts";
import { stsEndpoint } from "../../sessions/sts.ts";
import { credentialsOf } from "../../upstream/credentials.ts";
import { ESCALATIONS } from "../checks/role-escalation.ts";
import { type Known, known, type Simulation, unknown } from "../types.ts";

/** What AWS itself says: STS's clock, IAM's simulation. An edge; nothing of a credential leaves it but a signature. */

/** Milliseconds. */
const LIMIT_MS = 10_000;
/** Shorter, because many nodes cannot reach IAM at all. */
const IAM_LIMIT_MS = 4_000;
const MOST_BYTES = 1024 * 1024;

interface Reply {
  readonly status: number;
  readonly date: string | null;
  readonly body: string;
}

/** One request within a limit of time, the name server's included. @throws Error whose message is a code. */
function ask(
  url: URL,
  { method, headers, body }: { method: string; headers: Readonly<Record<string, string>>; body: string },
  limitMs: number = LIMIT_MS,
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const fail = (why: string) => {
      cancel();
      outgoing.destroy();
      reject(new Error(why));
    };
    const cancel = after(limitMs, () => fail(`no answer in ${limitMs / 1000} s`));
    const request = url.protocol === "https:" ? httpsRequest : httpRequest;
    const outgoing = request(url, { method, headers, agent: false }, (incoming) => {
      let text = "";
      incoming.on("data", (bytes) => {
        text += String(bytes);
        if (text.length > MOST_BYTES) fail("the answer is too long");
      });
      incoming.on("error", () => fail("the answer was cut off"));
      incoming.on("end", () => {
        cancel();
        resolve({ status: incoming.statusCode ?? 0, date: incoming.headers.date ?? null, body: text });
      });
    });
    outgoing.on("error", (error: NodeJS.ErrnoException) => fail(error.code ?? error.name));
    outgoing.end(body);
  });
}

const reasonOf = (error: unknown): string =>
  error instanceof ImdsProxyError ? error.problem : error instanceof Error ? error.message : String(error);

/** The region, from the configuration or from the node. @throws ImdsProxyError */
async function regionOf(config: Config): Promise<string> {
  if (config.region !== "auto") return config.region;
  const { status, body } = await askMetadata("/latest/meta-data/placement/region", { timeoutMs: LIMIT_MS });
  if (status === 200 && /^[a-z]{2,}(?:-[a-z]+)+-\d{1,2}$/.test(body.trim())) return body.trim();
  throw new ImdsProxyError(
    "upstream",
    "the metadata service tells no region",
    "set region in the configuration",
  );
}

/** How far the node's clock is ahead of STS's. A Date has whole seconds. */
export async function clockAgainstSts(config: Config): Promise<Known<number>> {
  let source = "the Date of STS's answer";
  try {
    const url = new URL(config.sts.endpoint ?? (await stsEndpoint(await regionOf(config))));
    source = `the Date of ${url.origin}'s answer`;
    const before = systemClock.now();
    const { date } = await ask(url, { method: "GET", headers: {}, body: "" });
    const now = (before + systemClock.now()) / 2;
    const theirs = Date.parse(date ?? "");
    return Number.isNaN(theirs) ? unknown("it has no Date", source) : known(now - theirs, source);
  } catch (error) {
    return unknown(reasonOf(error), source);
  }
}

/** Where IAM is in each partition, with the region for the signature (AWS General Reference, "IAM endpoints"). */
const IAM: Readonly<Record<string, readonly [host: string, region: string]>> = {
  aws: ["iam.amazonaws.com", "us-east-1"],
  "aws-cn": ["iam.cn-north-1.amazonaws.com.cn", "cn-north-1"],
  "aws-us-gov": ["iam.us-gov.amazonaws.com", "us-gov-west-1"],
};

interface Keys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
}

/**
 * The headers of a signed POST (IAM User Guide, "Create a signed AWS API request"). Pure.
 *
 * @param date as `YYYYMMDDTHHMMSSZ`.
 */
export function signedHeaders(
  {
    host,
    region,
    service,
    body,
    date,
  }: { host: string; region: string; service: string; body: string; date: string },
  { accessKeyId, secretAccessKey, sessionToken }: Keys,
): Readonly<Record<string, string>> {
  const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");
  const hmac = (key: string | Uint8Array, text: string) => createHmac("sha256", key).update(text).digest();
  const headers: Record<string, string> = {
    "content-type": "application/x-www-form-urlencoded",
    host,
    "x-amz-date": date,
    "x-amz-security-token": sessionToken,
  };
  const names = Object.keys(headers).sort();
  const canonical = [
    "POST",
    "/",
    "",
    ...names.map((name) => `${name}:${headers[name]}`),
    "",
    names.join(";"),
    sha256(body),
  ].join("\n");
  const scope = `${date.slice(0, 8)}/${region}/${service}/aws4_request`;
  const key = scope.split("/").reduce<string | Uint8Array>(hmac, `AWS4${secretAccessKey}`);
  const signature = hmac(key, ["AWS4-HMAC-SHA256", date, scope, sha256(canonical)].join("\n")).toString(
    "hex",
  );
  return {
    ...headers,
    authorization: `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${scope}, SignedHeaders=${names.join(";")}, Signature=${signature}`,
  };
}

/**
 * Reads the answer of SimulatePrincipalPolicy: the actions that are allowed. Each result has its action and its decision once, in
 * one order or the other. Pure.
 */
export function parseSimulation(xml: string): string[] {
  const fields = [...xml.matchAll(/<(EvalActionName|EvalDecision)>([^<]{1,128})<\/\1>/g)].map(
    ([, name, value = ""]) => ({ name, value }),
  );
  const allowed: string[] = [];
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const pair = fields.slice(i, i + 2);
    const of = (wanted: string) => pair.find(({ name }) => name === wanted)?.value ?? "";
    const action = of("EvalActionName");
    if (of("EvalDecision") === "allowed" && Object.hasOwn(ESCALATIONS, action)) allowed.push(action);
  }
  return allowed;
}

/** The roles of a configuration, each once. Pure. */
export const rolesOf = ({ role, rules }: Pick<Config, "role" | "rules">): string[] => [
  ...new Set(
    [role, ...rules.map((rule) => (rule.role === "none" ? null : rule.role))].filter(
      (one): one is string => typeof one === "string",
    ),
  ),
];

/** What IAM says that the roles of users may do, asked with the instance role. */
export async function simulationsHere(
  config: Config,
  instanceRole: string | null,
): Promise<Known<readonly Simulation[]>> {
  const source = "iam:SimulatePrincipalPolicy";
  const roles = rolesOf(config);
  if (roles.length === 0) return known([], source);
  if (instanceRole === null)
    return unknown("root has no credentials of the instance role to ask with", source);
  try {
    const keys = credentialsOf(
      await askMetadata(`/latest/meta-data/iam/security-credentials/${instanceRole}`, {
        timeoutMs: LIMIT_MS,
      }),
    );
    const found = await Promise.all(roles.map((role) => simulate(role, keys)));
    const gaps = found.flatMap((one) => (typeof one === "string" ? [one] : []));
    const simulations = found.filter((one): one is Simulation => typeof one !== "string");
    return simulations.length === 0
      ? unknown([...new Set(gaps)].join("; "), source)
      : known(simulations, source, gaps);
  } catch (error) {
    return unknown(reasonOf(error), source);
  }
}

/** @returns the simulation, or why there is none. */
async function simulate(roleArn: string, keys: Keys): Promise<Simulation | string> {
  const [host, region] = IAM[parseRoleArn(roleArn)?.partition ?? ""] ?? [];
  if (host === undefined || region === undefined)
    return `${roleArn}: where IAM of its partition answers is not known`;
  const body = new URLSearchParams([
    ["Action", "SimulatePrincipalPolicy"],
    ["Version", "2010-05-08"],
    ["PolicySourceArn", roleArn],
    ...Object.keys(ESCALATIONS).map((action, i): [string, string] => [`ActionNames.member.${i + 1}`, action]),
  ]).toString();
  const date = new Date(systemClock.now()).toISOString().replaceAll(/[-:]|\.\d+/g, "");
  try {
    const headers = signedHeaders({ host, region, service: "iam", body, date }, keys);
    const reply = await ask(new URL(`https://${host}/`), { method: "POST", headers, body }, IAM_LIMIT_MS);
    if (reply.status === 200) return { roleArn, allowed: parseSimulation(reply.body) };
    const code = /<Code>([\w.]{1,64})<\/Code>/.exec(reply.body)?.[1] ?? `status ${reply.status}`;
    return `${roleArn}: ${code}`;
  } catch (error) {
    return `${roleArn}: ${host}: ${reasonOf(error)}`;
  }
}
