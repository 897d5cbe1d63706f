import type { BrokerCounts } from "../sessions/summary.ts";
import type { FirewallHealth } from "../telemetry/firewall-health.ts";

/**
 * What `/healthz` and `/readyz` answer beside the metrics, in the form that Kubernetes gave these (kubernetes.io, "Kubernetes API
 * health endpoints"). Every local user can read them: so each problem is one of a few fixed texts, and names no user and no role.
 */

/** One check: its name, and what is wrong; null where nothing is. */
export interface Check {
  readonly name: string;
  readonly problem: string | null;
  /** What is wrong without keeping anybody from credentials. Default: nothing. */
  readonly warning?: string | null;
}

/** A probe's status and text. */
export interface ProbeAnswer {
  readonly status: 200 | 503;
  readonly text: string;
}

export interface ProbeSources {
  /** Whether connections are accepted at each endpoint. */
  readonly accepting: () => boolean;
  /** Whether the node's own metadata service answers. */
  readonly upstreamAnswers: () => Promise<boolean>;
  /** Null until the upstream has said whether it requires tokens. */
  readonly tokensRequired: () => boolean | null;
  readonly firewall: () => FirewallHealth | null;
  readonly broker: () => Pick<BrokerCounts, "states">;
  /** The fleet's object with the rules; null where the node takes none. */
  readonly object: () => Omit<Check, "name"> | null;
}

const check = (name: string, right: boolean, problem: string): Check => ({
  name,
  problem: right ? null : problem,
});

const accepting = (sources: ProbeSources) =>
  check("accepting", sources.accepting(), "connections are not accepted");

/** Whether a restart would help: the process runs, as an answer shows, and accepts connections. */
export const liveness = (sources: ProbeSources): Check[] => [accepting(sources)];

/** Whether users get their credentials. */
export async function readiness(sources: ProbeSources): Promise<Check[]> {
  const { fresh, low, denied, failed } = sources.broker().states;
  const object = sources.object();
  return [
    accepting(sources),
    check(
      "upstream",
      await sources.upstreamAnswers().catch(() => false),
      "the node's own metadata service does not answer",
    ),
    check(
      "tokens",
      sources.tokensRequired() !== null,
      "the upstream has not said yet whether it requires tokens",
    ),
    check("firewall", sources.firewall()?.healthy !== false, "the firewall rules are not as they should be"),
    // A role that STS denies to some users says nothing of the others.
    check("sts", denied + failed === 0 || fresh + low > 0, "STS gives no session"),
    ...(object === null ? [] : [{ name: "object", ...object }]),
  ];
}

/** A probe's answer: a line for each check, and 503 where one of them failed. */
export function probeAnswer(name: string, checks: readonly Check[]): ProbeAnswer {
  const failed = checks.some(({ problem }) => problem !== null);
  const lines = checks.map((one) =>
    one.problem !== null
      ? `[-]${one.name} failed: ${one.problem}`
      : one.warning == null
        ? `[+]${one.name} ok`
        : `[+]${one.name} ok, with a warning: ${one.warning}`,
  );
  return {
    status: failed ? 503 : 200,
    text: `${[...lines, `${name} check ${failed ? "failed" : "passed"}`].join("\n")}\n`,
  };
}
