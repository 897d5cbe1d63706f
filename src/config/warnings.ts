import { grantsOf, matchesOf, tooMany } from "../rules/grants.ts";
import { mentionsJob } from "../rules/template.ts";
import { type KeyPath, keyText } from "./document.ts";
import { withoutDefault } from "./reachable.ts";
import type { Config, Rule } from "./schema.ts";
import { isServicePort, isServiceState } from "./service-values.ts";

/**
 * Warnings about what is valid in a configuration but rarely intended. Pure: they depend on the configuration alone, so that it can be
 * checked on any machine.
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

/** One thing that deserves a second look. */
export interface ConfigWarning {
  /** One sentence. */
  readonly text: string;
  /** The key that it is about. */
  readonly keys: KeyPath;
}

/** What deserves a second look, in the order of the file's rules. */
export function configWarnings(
  config: Pick<Config, "rules" | "role" | "sessionName" | "listen" | "stateDirectory">,
): readonly ConfigWarning[] {
  return [
    ...ofService(config),
    ...ofDefaultRole(config),
    ...ofSessionTexts(config),
    ...ofGrants(config),
    ...ofJobs(config),
  ];
}

/** Values with which the proxy can be tried by hand, and which are not the service's. */
function ofService({ listen, stateDirectory }: Pick<Config, "listen" | "stateDirectory">): ConfigWarning[] {
  const warnings: ConfigWarning[] = [];
  if (!isServicePort(listen.port)) {
    const text = `setup refuses it: listen has port ${listen.port}, which any user could take while the proxy is away; a port below 1024, such as the default 254`;
    warnings.push({ keys: ["listen"], text });
  }
  if (!isServiceState(stateDirectory)) {
    const text = `setup refuses it: stateDirectory is ${stateDirectory}, and the service can write only to a directory in /var/lib, such as /var/lib/imdsproxy, the default`;
    warnings.push({ keys: ["stateDirectory"], text });
  }
  return warnings;
}

/** A default role that nobody can get. */
function ofDefaultRole(config: Pick<Config, "rules" | "role">): ConfigWarning[] {
  const rules = withoutDefault(config);
  if (rules === null) return [];
  const names = rules.map(({ name }) => JSON.stringify(name)).join(", ");
  return [
    {
      keys: ["role"],
      text:
        `nobody can get the default role ${config.role}: ${rules.length === 1 ? "the rule" : "the rules"} ${names} ` +
        `${rules.length === 1 ? "matches" : "together match"} everyone; take it out, or narrow ${rules.length === 1 ? "the rule" : "them"}`,
    },
  ];
}

/** Two placeholders with nothing between them: `{user}{uid}` is one text for "a1" with 2 and for "a" with 12. */
function ofSessionTexts(config: Pick<Config, "rules" | "sessionName">): ConfigWarning[] {
  const texts: (readonly [keys: KeyPath, template: string | null | undefined])[] = [
    [["sessionName"], config.sessionName],
    ...config.rules.flatMap((rule, index) => [
      [["rules", index, "sessionName"], rule.sessionName] as const,
      [["rules", index, "sourceIdentity"], rule.sourceIdentity] as const,
      ...Object.entries(rule.tags).map(([key, text]) => [["rules", index, "tags", key], text] as const),
    ]),
  ];
  return texts.flatMap(([keys, template]) => {
    const pair = /\{\w+\}\{\w+\}/.exec(template ?? "")?.[0];
    if (pair === undefined) return [];
    return [
      {
        keys,
        text: `${keyText(keys)} has ${pair} with nothing between: two callers can get the same text; put a character that no name has, such as @, between them`,
      },
    ];
  });
}

/** Grants of a rule that are more than STS takes, for a caller whom all of them match. */
function ofGrants(config: Pick<Config, "rules">): ConfigWarning[] {
  return config.rules.flatMap((rule, index) => {
    const why = tooMany(grantsOf(rule) ?? []);
    if (why === null) return [];
    return [
      {
        keys: ["rules", index, "grants"],
        text: `the rule ${JSON.stringify(rule.name)} refuses a caller whom all of its grants match: ${why}; put statements that belong together into one policy`,
      },
    ];
  });
}

/** Rules that give less inside of a job than outside of one. */
function ofJobs(config: Pick<Config, "rules" | "role">): ConfigWarning[] {
  return config.rules.filter(isOfJobs).flatMap((rule) => {
    const name = JSON.stringify(rule.name);
    if (rule.role !== "none") return [];
    const other = outsideOf(config, rule);
    const given = other === null ? config.role : other.role === "none" ? null : other.role;
    if (given === null) return [];
    const by = other === null ? "the default role" : `the rule ${JSON.stringify(other.name)}`;
    return [
      {
        keys: ["rules", config.rules.indexOf(rule)],
        text:
          `the rule ${name} refuses inside of a Slurm job what ${by} gives outside of one (${given}), and a user can leave a job ` +
          "(systemd-run --user, ssh to the node): let a rule for jobs give more than the rules below it, not less, or close the ways " +
          "out (pam_slurm_adopt, no lingering users); docs/slurm.md",
      },
    ];
  });
}

/** Whether the configuration looks at Slurm jobs anywhere: in a rule's match or in a template. */
export const asksForJobs = (config: Pick<Config, "rules" | "sessionName">): boolean =>
  config.rules.some(
    (rule) =>
      matchesOf(rule).some(({ slurmJob }) => slurmJob !== undefined) ||
      [rule.sessionName ?? "", rule.sourceIdentity ?? "", ...Object.values(rule.tags)].some(mentionsJob),
  ) || mentionsJob(config.sessionName);
