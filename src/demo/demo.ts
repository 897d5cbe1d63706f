import { ImdsProxyError } from "../errors.ts";
import {
  type Check,
  DATA_GROUP,
  DATA_ROLE,
  DEFAULT_ROLE,
  demoChecks,
  type Outcome,
  outcomeText,
  withoutProxyChecks,
} from "./checks.ts";
import { DEFAULT_FACTS } from "./imds/tree.ts";
import { type SimulatedNode, startNode } from "./node.ts";
import type { ReportRow } from "./report.ts";

/** Where the demo tells what it does. */
export interface DemoProgress {
  /** A step begins; the returned function says that it is done. */
  step(text: string): () => void;
}

const roleArn = (name: string) => `arn:aws:iam::${DEFAULT_FACTS.account}:role/${name}`;

function configuration(stsEndpoint: string): object {
  return {
    role: roleArn(DEFAULT_ROLE),
    sts: { endpoint: stsEndpoint },
    rules: [{ name: "data engineers", match: { group: DATA_GROUP }, role: roleArn(DATA_ROLE) }],
    metrics: null,
  };
}

/** Everything the demo does on its node; the caller ends the node. */
async function show(node: SimulatedNode, progress: DemoProgress): Promise<ReportRow[]> {
  const checks = demoChecks(node);
  const before: Outcome[] = [];
  const looked = progress.step("before: everybody tries what they can");
  for (const check of checks) before.push(await check.attempt(node));
  looked();

  const started = progress.step("starting imdsproxy and redirecting the metadata service to it");
  node.write("/etc/imdsproxy/config.yaml", JSON.stringify(configuration(node.stsEndpoint), null, 2));
  await applyRules(node);
  const proxy = await node.startProxy();
  started();

  const tried = progress.step("with imdsproxy: everybody tries again");
  const rows: ReportRow[] = [];
  for (const [index, check] of checks.entries()) {
    rows.push(rowOf(check, before[index] ?? null, await check.attempt(node)));
  }
  tried();

  const killed = progress.step("killing the proxy: does anything open up?");
  await proxy.stop("SIGKILL");
  for (const check of withoutProxyChecks()) rows.push(rowOf(check, null, await check.attempt(node)));
  killed();
  return rows;
}

function rowOf(check: Check, before: Outcome | null, after: Outcome): ReportRow {
  return {
    who: check.who,
    what: check.what,
    before: before === null ? null : outcomeText(before),
    after: outcomeText(after),
    ok: check.holds(after),
  };
}

async function applyRules(node: SimulatedNode): Promise<void> {
  const argv = ["/run/bin/imdsproxy", "iptables", "apply"];
  const { exitCode, stdout, stderr } = await node.exec({ user: "root", argv });
  if (exitCode === 0) return;
  throw new ImdsProxyError(
    "command-failed",
    `cannot apply the rules on the node: ${(stderr || stdout).trim()}`,
  );
}

/**
 * Runs the demo: makes a node, shows that users reach the instance role, starts the proxy, and tries the same again. The node
 * is gone when the promise settles, whatever the outcome.
 *
 * @param interrupted aborts the demo; it then rejects with the signal's reason.
 */
export async function runDemo(progress: DemoProgress, interrupted: AbortSignal): Promise<ReportRow[]> {
  const built = progress.step(
    "building a node like SageMaker HyperPod's out of namespaces (users, metadata service, STS)",
  );
  const starting = startNode({
    users: [
      { name: "alice", uid: 2001 },
      { name: "bob", uid: 2002, groups: [DATA_GROUP] },
    ],
  });
  const aborted = new Promise<never>((_, reject) => {
    if (interrupted.aborted) reject(interrupted.reason);
    interrupted.addEventListener("abort", () => reject(interrupted.reason), { once: true });
  });
  // It is also awaited below; this keeps an early abort from being "unhandled".
  aborted.catch(() => {});
  try {
    const showing = starting.then((node) => {
      built();
      return show(node, progress);
    });
    showing.catch(() => {});
    return await Promise.race([showing, aborted]);
  } finally {
    const node = await starting.catch(() => null);
    await node?.stop();
  }
}
