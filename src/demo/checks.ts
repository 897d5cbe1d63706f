import { existsSync } from "node:fs";
import type { AskAnswer } from "./ask.ts";
import { DEFAULT_FACTS } from "./imds/tree.ts";
import { ADDRESSES } from "./network.ts";
import type { SimulatedNode } from "./node.ts";

/** The outcome of something that a user tried: what they gained. */
export type Outcome =
  /** They act as a role. */
  | { readonly kind: "role"; readonly role: string; readonly session: string }
  /** They hold the instance role's secrets. */
  | { readonly kind: "instance-secrets" }
  | { readonly kind: "http"; readonly status: number }
  | { readonly kind: "refused" }
  | { readonly kind: "failed"; readonly message: string };

/** One thing that someone tries on the node, before and after, and what is right once the proxy is there. */
export interface Check {
  readonly who: "alice" | "bob" | "root";
  readonly what: string;
  attempt(node: SimulatedNode): Promise<Outcome>;
  /** True where this is the outcome that the proxy promises. */
  holds(outcome: Outcome): boolean;
}

/** The roles of the demo's configuration. */
export const DEFAULT_ROLE = "ImdsProxyTestRole";
export const DATA_ROLE = "DataEng";
export const DATA_GROUP = "data-eng";

/** What a person reads. */
export function outcomeText(outcome: Outcome): string {
  switch (outcome.kind) {
    case "role":
      return outcome.role === DEFAULT_FACTS.roleName
        ? "the instance role"
        : `${outcome.role} (${outcome.session})`;
    case "instance-secrets":
      return "its secret keys";
    case "http":
      return outcome.status === 404 ? "404 not found" : `HTTP ${outcome.status}`;
    case "refused":
      return "connection refused";
    case "failed":
      return `error: ${outcome.message.split("\n")[0]?.slice(0, 60)}`;
  }
}

const isRole = (role: string, session?: string) => (outcome: Outcome) =>
  outcome.kind === "role" && outcome.role === role && (session === undefined || outcome.session === session);

async function ask(node: SimulatedNode, user: string, flags: readonly string[]): Promise<Outcome> {
  const argv = ["/run/bin/imdsproxy", "demo-ask", ...flags];
  const { exitCode, stdout, stderr } = await node.exec({ user, argv, timeoutMs: 20_000 });
  if (exitCode !== 0) return { kind: "failed", message: stderr.trim() || `exit ${exitCode}` };
  const answer = JSON.parse(stdout) as AskAnswer;
  if (answer.kind === "identity") return roleOf(answer.arn);
  if (answer.kind !== "http") return answer;
  if (answer.body.includes(node.secrets.marker)) return { kind: "instance-secrets" };
  return { kind: "http", status: answer.status };
}

/** `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION` */
function roleOf(arn: string): Outcome {
  const [, role, session] = arn.split("/");
  if (role === undefined || session === undefined) return { kind: "failed", message: `STS says ${arn}` };
  return { kind: "role", role, session };
}

/** How often somebody asks who they are, where the client found no credentials: most wait for one second, once. */
const TRIES = 5;

async function identity(tryOnce: () => Promise<Outcome>): Promise<Outcome> {
  for (let left = TRIES - 1; ; left--) {
    const outcome = await tryOnce();
    if (outcome.kind !== "failed" || left === 0) return outcome;
  }
}

function sdk(node: SimulatedNode, user: string): Promise<Outcome> {
  const flags = ["--region", DEFAULT_FACTS.region, "--sts-endpoint", node.stsEndpoint];
  return identity(() => ask(node, user, flags));
}

function awsCli(node: SimulatedNode, cli: string, user: string): Promise<Outcome> {
  const command = [cli, "sts", "get-caller-identity", "--endpoint-url", node.stsEndpoint];
  const argv = [...command, "--region", DEFAULT_FACTS.region, "--output", "json"];
  return identity(async () => {
    const { exitCode, stdout, stderr } = await node.exec({ user, argv, timeoutMs: 30_000 });
    if (exitCode !== 0) return { kind: "failed", message: stderr.trim() || `exit ${exitCode}` };
    return roleOf((JSON.parse(stdout) as { Arn: string }).Arn);
  });
}

const sessionOf = (user: string) => `${user}@${DEFAULT_FACTS.instanceId}`;
const rolePath = `/latest/meta-data/iam/security-credentials/${DEFAULT_FACTS.roleName}`;

function byHand(who: "alice", what: string, url: string, wanted: Outcome["kind"]): Check {
  return {
    who,
    what,
    attempt: (node) => ask(node, who, ["--url", url]),
    holds: (outcome) => outcome.kind === wanted && (outcome.kind !== "http" || outcome.status === 404),
  };
}

/** Everything that the demo tries. The AWS CLI is used where the machine has one outside of a home. */
export function demoChecks(node: SimulatedNode): Check[] {
  const { imds4, imds6, agent, agentPort } = ADDRESSES;
  const cli = ["/usr/bin/aws", "/usr/local/bin/aws"].find((path) => existsSync(node.path(path))) ?? null;
  const roles = { alice: DEFAULT_ROLE, bob: DATA_ROLE } as const;
  const identities = (["alice", "bob", "root"] as const).flatMap((who): Check[] => {
    const holds = who === "root" ? isRole(node.roleName) : isRole(roles[who], sessionOf(who));
    return [
      { who, what: "AWS SDK: who am I?", attempt: (on) => sdk(on, who), holds },
      ...(cli === null || who === "bob"
        ? []
        : [
            {
              who,
              what: "AWS CLI: who am I?",
              attempt: (on: SimulatedNode) => awsCli(on, cli, who),
              holds,
            },
          ]),
    ];
  });
  return [
    ...identities,
    byHand("alice", "IMDS: the instance role by name", `http://${imds4}${rolePath}`, "http"),
    ...(node.ipv6 ? [byHand("alice", "the same over IPv6", `http://[${imds6}]${rolePath}`, "http")] : []),
    byHand("alice", "HyperPod's agent, directly", `http://${agent}:${agentPort}${rolePath}`, "refused"),
  ];
}

/** What is tried once more when the proxy has been killed. */
export function withoutProxyChecks(): Check[] {
  return [
    byHand("alice", "proxy killed: by name again", `http://${ADDRESSES.imds4}${rolePath}`, "refused"),
    {
      who: "root",
      what: "proxy killed: who am I?",
      attempt: (node) => sdk(node, "root"),
      holds: isRole(DEFAULT_FACTS.roleName),
    },
  ];
}
