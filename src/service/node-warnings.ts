import type { Config } from "../config/schema.ts";
import { asksForJobs } from "../config/warnings.ts";
import { ImdsProxyError } from "../errors.ts";
import { slurmProblem } from "../identity/slurm-settings.ts";
import { getent } from "../platform/getent.ts";
import { matchesOf } from "../rules/grants.ts";

/** Warnings where a configuration does not fit this node as it is now; no errors, because directories and Slurm may come later. */

/** Looks names up: false where there is no such name, null where that is unknown. */
export interface Directory {
  has(database: "passwd" | "group", name: string): Promise<boolean | null>;
}

const TIMEOUT_MS = 2_000;

const nss: Directory = {
  async has(database, name) {
    try {
      return (await getent(database, name, TIMEOUT_MS)) !== null;
    } catch (error) {
      if (error instanceof ImdsProxyError) return null;
      throw error;
    }
  },
};

/** One sentence for each user or group of a rule, and each exempt user, whom this node does not know, and one where Slurm's jobs cannot be seen. */
export async function nodeWarnings(
  config: Config,
  directory: Directory = nss,
  slurm: () => string | null = slurmProblem,
): Promise<readonly string[]> {
  const asked = config.rules.flatMap((rule) =>
    matchesOf(rule).flatMap((match) => [
      ...(match.user ?? []).map((name) => ({
        rule: rule.name,
        database: "passwd" as const,
        what: "user",
        name,
      })),
      ...(match.group ?? []).map((name) => ({
        rule: rule.name,
        database: "group" as const,
        what: "group",
        name,
      })),
    ]),
  );
  const missing: string[] = [];
  for (const { rule, database, what, name } of asked) {
    const found = await directory.has(database, name);
    if (found !== false) continue;
    missing.push(
      `the rule ${JSON.stringify(rule)} names the ${what} ${JSON.stringify(name)}, whom this node does not know: getent ${database} ${name}`,
    );
  }
  for (const name of config.exempt.filter((one) => one !== "root" && !/^\d+$/.test(one))) {
    if ((await directory.has("passwd", name)) !== false) continue;
    missing.push(
      `exempt names the user ${JSON.stringify(name)}, whom this node does not know: they are not exempt until it does: getent passwd ${name}`,
    );
  }
  const problem = asksForJobs(config) ? slurm() : null;
  return problem === null ? missing : [...missing, problem];
}
