import type { Config, Rule } from "./schema.ts";

/**
 * Warnings: what is valid in a configuration but rarely intended. Pure: reads the configuration alone, so that it can be checked
 * on any machine.
 */

/** Whether a rule holds only inside of a Slurm job. */
const isOfJobs = (rule: Rule): boolean => rule.match.slurmJob === true;

/** The rule below that takes a caller whom `rule` names once they are outside of a job; null: the default role. */
function outsideOf(config: Pick<Config, "rules">, rule: Rule): Rule | null {
  const below = config.rules.slice(config.rules.indexOf(rule) + 1);
  return below.find(({ match }) => match.slurmJob !== true && overlaps(match.user, rule.match.user)) ?? null;
}

/** Whether two lists of names can mean the same person; a list that is absent means everybody. */
const overlaps = (a: readonly string[] | undefined, b: readonly string[] | undefined): boolean =>
  a === undefined || b === undefined || a.some((name) => b.includes(name));

/** One sentence for each thing that deserves a second look. */
export function configWarnings(config: Pick<Config, "rules" | "role">): readonly string[] {
  return config.rules.filter(isOfJobs).flatMap((rule) => {
    const name = JSON.stringify(rule.name);
    if (rule.role !== "none") return [];
    const other = outsideOf(config, rule);
    const given = other === null ? config.role : other.role === "none" ? null : other.role;
    if (given === null) return [];
    const by = other === null ? "the default role" : `the rule ${JSON.stringify(other.name)}`;
    return [
      `the rule ${name} refuses inside of a Slurm job what ${by} gives outside of one (${given}), and a user can leave a job ` +
        "(systemd-run --user, ssh to the node): let a rule for jobs give more than the rules below it, not less, or close the ways " +
        "out (pam_slurm_adopt, no lingering users); docs/slurm.md",
    ];
  });
}

/** Whether the configuration looks at Slurm jobs anywhere: in a rule's match or in a template. */
export const asksForJobs = (config: Pick<Config, "rules" | "sessionName">): boolean =>
  config.rules.some(
    (rule) =>
      rule.match.slurmJob !== undefined ||
      [rule.sessionName ?? "", rule.sourceIdentity ?? "", ...Object.values(rule.tags)].some((template) =>
        template.includes("{slurmJobId}"),
      ),
  ) || config.sessionName.includes("{slurmJobId}");
