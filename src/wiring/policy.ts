import { hostname } from "node:os";
import { categoryFilter } from "../config/categories.ts";
import type { Config } from "../config/schema.ts";
import { asksForJobs } from "../config/warnings.ts";
import type { Accounts } from "../identity/accounts.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import { slurmProblem } from "../identity/slurm-settings.ts";
import type { Policy } from "../imds/decisions.ts";
import { knownAuthorities } from "../imds/target.ts";
import { compileRules } from "../rules/decide.ts";
import { systemIdentities } from "./identities.ts";

/**
 * The part of a configuration that decides over requests.
 *
 * @param own where the proxy listens.
 * @throws ImdsProxyError `missing` where the rules need what this node does not have.
 */
export function policyOf(config: Config, own: readonly Endpoint[], accounts: Accounts): Policy {
  const rules = compileRules(config, { hostname: hostname() });
  // Looks at Slurm once: the next reload looks again.
  const jobsUnknown = asksForJobs(config) ? slurmProblem() : null;
  const identities = systemIdentities(rules.needs, accounts, jobsUnknown);
  return {
    rules,
    identify: (owner) => identities.resolve(owner),
    categories: categoryFilter(config.imds.allow, config.imds.deny),
    authorities: knownAuthorities(own),
  };
}
