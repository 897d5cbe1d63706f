import { categoryFilter } from "../config/categories.ts";
import type { Config } from "../config/schema.ts";
import type { Exemptions } from "../firewall/exempt.ts";
import type { KnownAs } from "../identity/accounts.ts";
import { slurmJobNameOf } from "../identity/slurm-cgroup.ts";
import type { Identity } from "../identity/types.ts";
import { compileRules } from "../rules/decide.ts";
import type { SessionRequest } from "../sessions/types.ts";
import type { Caller } from "./callers.ts";
import { outcomeOfCategory } from "./request.ts";

/** What a caller would get under a configuration. Pure. */

/** A caller with the names of its user. */
export interface NamedCaller extends Caller {
  /** What NSS says of the uid; null where there is none. */
  readonly account: KnownAs | null;
}

export type Outcome =
  /** The instance role, past the proxy. */
  | { readonly kind: "exempt"; readonly why: string }
  | {
      readonly kind: "role";
      readonly role: string;
      readonly rule: string | null;
      readonly reason: string;
      /** The request for the session. It may have an external id, which is a secret: never to be shown. */
      readonly request: SessionRequest;
    }
  | { readonly kind: "refused"; readonly rule: string | null; readonly reason: string }
  /** The firewall does not touch these requests. */
  | { readonly kind: "untouched"; readonly why: string }
  /** The names, or who sent it, are not known. */
  | { readonly kind: "unknown"; readonly why: string };

/** An outcome without the request, which may have an external id. */
export type ShownOutcome =
  | Exclude<Outcome, { kind: "role" }>
  | Omit<Extract<Outcome, { kind: "role" }>, "request">;

export const shownOutcome = (outcome: Outcome): ShownOutcome => {
  if (outcome.kind !== "role") return outcome;
  const { request: _, ...rest } = outcome;
  return rest;
};

/** An outcome, and which of the categories that were asked for would not be answered. */
export interface Prospect {
  readonly outcome: Outcome;
  /** Categories that would be answered with 404, or with 400 for their spelling. */
  readonly lost: readonly string[];
}

/** A placeholder for the instance id, which no decision depends on. */
const INSTANCE_ID = "i-INSTANCE";
/** The same for the region. */
const REGION = "REGION";

/** Compiles a configuration to a function from a caller to their prospect. */
export function prospects(
  config: Config,
  exemptions: Exemptions,
): (caller: Pick<NamedCaller, "uid" | "container" | "account" | "cgroup" | "categories">) => Prospect {
  const rules = compileRules(config);
  const categories = categoryFilter(config.imds.allow, config.imds.deny);
  return (caller) => {
    const outcome = outcomeOf(caller);
    const answered = outcome.kind === "role" || outcome.kind === "refused";
    const lost = answered
      ? caller.categories
          .map(([category]) => category)
          .filter((category) =>
            ["not found", "refused"].includes(
              outcomeOfCategory(category, categories, outcome.kind === "role"),
            ),
          )
      : [];
    return { outcome, lost };
  };

  function outcomeOf({
    uid,
    container,
    account,
    cgroup,
  }: Parameters<ReturnType<typeof prospects>>[0]): Outcome {
    if (container !== null) {
      if (config.containers === "leave")
        return { kind: "untouched", why: "containers: leave: whatever they get without imdsproxy" };
      if (config.containers === "reject")
        return { kind: "refused", rule: null, reason: "containers: reject" };
    }
    if (uid === null && container === null && account === null) {
      // A packet without a socket's uid is reset on its way to the instance role: the rules ask for a uid.
      return { kind: "unknown", why: "no uid: a socket without a file, as the kernel's own" };
    }
    const exempt = uid === null ? exemptByName(config, account) : exemptions.get(uid);
    if (exempt !== undefined) return { kind: "exempt", why: exempt };
    if (account?.conflict !== undefined) return { kind: "refused", rule: null, reason: account.conflict };
    const identity: Identity = {
      uid,
      container,
      user: null,
      subordinate: false,
      groups: [],
      ...(account === null ? {} : withoutConflict(account)),
      cgroup,
      slurmJobId: slurmJobNameOf(cgroup),
    };
    const decision = rules.decide(identity, INSTANCE_ID, REGION);
    if (decision.kind === "role")
      return {
        kind: "role",
        role: decision.roleArn,
        rule: decision.rule,
        reason: decision.reason,
        request: decision.request,
      };
    return decision.passing === true
      ? { kind: "unknown", why: decision.reason }
      : { kind: "refused", rule: decision.rule, reason: decision.reason };
  }
}

/** For a caller of a configuration's own tests, who may have a name alone. */
function exemptByName({ exempt }: Pick<Config, "exempt">, account: KnownAs | null): string | undefined {
  const user = account?.user ?? null;
  return user !== null && (user === "root" || exempt.includes(user))
    ? "exempt in the configuration"
    : undefined;
}

const withoutConflict = ({ conflict: _, ...account }: KnownAs): Omit<KnownAs, "conflict"> => account;

/** A few words for a table: `exempt`, `role NAME`, `refused`. */
export function outcomeText(outcome: ShownOutcome): string {
  switch (outcome.kind) {
    case "exempt":
      return "exempt";
    case "role":
      return outcome.role.split("/").at(-1) ?? outcome.role;
    case "refused":
      return "refused";
    case "untouched":
      return "untouched";
    case "unknown":
      return "unknown";
  }
}
