import type { CategoryFilter } from "../config/categories.ts";
import { describeUnforeseen, ImdsProxyError } from "../errors.ts";
import type { KnownCaller } from "../identity/caller.ts";
import type { SocketOwner } from "../identity/lookup.ts";
import { type Identity, UNKNOWN_IDENTITY } from "../identity/types.ts";
import type { Decision, Rules } from "../rules/decide.ts";
import { parseRoleArn } from "../sessions/arn.ts";
import type { MetadataCache, UpstreamAnswer } from "../upstream/cache.ts";
import { Refusal } from "./refusal.ts";
import { next, type Soon } from "./soon.ts";

/** The part of the configuration that decides over requests. */
export interface Policy {
  readonly rules: Rules;
  /** The identity of a socket's owner, with the parts that the rules need. */
  readonly identify: (owner: SocketOwner) => Identity | Promise<Identity>;
  readonly categories: CategoryFilter;
  /** Authorities that a Host may name, in lower case: the metadata service's and our own. */
  readonly authorities: ReadonlySet<string>;
}

/** A caller's identity, and the decision of the rules. */
export interface Decided {
  readonly identity: Identity;
  readonly decision: Decision;
  /** The groups that any rule names. */
  readonly namedGroups: ReadonlySet<string>;
  /** The node's instance id by which it was decided; null where no text needs it. */
  readonly instanceId?: string | null;
  /** The node's region by which it was decided; null where no text needs it. */
  readonly region?: string | null;
}

/** A decision that is kept, with what it was made under. */
export interface KeptDecision extends Decided {
  readonly policy: Policy;
  readonly instanceId: string | null;
  readonly region: string | null;
  /** The name in the role's ARN; undefined where there is no role. */
  readonly roleName: string | undefined;
}

export interface DecisionsOptions {
  readonly metadata: MetadataCache;
  /**
   * The region in which the node is, where a text of the rules needs it; null where nobody tells it. Absent: nobody does.
   *
   * @throws or rejects while the upstream does not answer.
   */
  readonly region?: () => Promise<string | null>;
}

/** The subject under which the proxy's own requests to the upstream are counted. */
const OURSELVES = -1;

const containerIdentity = (address: string): Identity => ({ ...UNKNOWN_IDENTITY, container: address });

/** Identifies callers, and decides by the rules what they get. */
export class Decisions {
  readonly #options: DecisionsOptions;
  /** What was decided for identities: identity/resolver.ts gives the same one again. */
  readonly #decided = new WeakMap<Identity, KeptDecision>();

  constructor(options: DecisionsOptions) {
    this.#options = options;
  }

  /**
   * Identifies the caller and applies the rules, both by the request's policy, even if a new one is loaded meanwhile.
   *
   * @param nowMs what the clock says now.
   * @throws or rejects with a Refusal, or with an error of the look-up of names.
   */
  decide(caller: KnownCaller, policy: Policy, nowMs: number): Soon<KeptDecision> {
    const identity =
      caller.kind === "owner" ? policy.identify(caller.owner) : containerIdentity(caller.address);
    const instanceId = this.#instanceId(policy, nowMs);
    const region = this.#region(policy);
    return identity instanceof Promise || instanceId instanceof Promise || region instanceof Promise
      ? Promise.all([identity, instanceId, region]).then(([who, which, where]) =>
          this.#decideFor(who, which, where, policy),
        )
      : this.#decideFor(identity, instanceId, region, policy);
  }

  #decideFor(
    identity: Identity,
    instanceId: string | null,
    region: string | null,
    policy: Policy,
  ): KeptDecision {
    const known = this.#decided.get(identity);
    if (known?.policy === policy && known.instanceId === instanceId && known.region === region) return known;
    const { rules } = policy;
    const decision = rules.decide(identity, instanceId, region);
    const roleName = decision.kind === "role" ? parseRoleArn(decision.roleArn)?.name : undefined;
    const decided: KeptDecision = {
      policy,
      instanceId,
      region,
      identity,
      decision,
      roleName,
      namedGroups: rules.namedGroups,
    };
    this.#decided.set(identity, decided);
    return decided;
  }

  /** The node's instance id where a template names it. @throws Refusal 503 where the upstream does not tell it. */
  #instanceId(policy: Policy, nowMs: number): Soon<string | null> {
    if (!policy.rules.needs.instanceId) return null;
    return next(
      this.#options.metadata.readLasting("latest", "meta-data/instance-id", OURSELVES, nowMs),
      instanceIdOf,
    );
  }

  /** The node's region where a template names it. @throws Refusal 503 where the upstream does not tell it. */
  #region(policy: Policy): Soon<string | null> {
    const { region } = this.#options;
    if (!policy.rules.needs.region || region === undefined) return null;
    // As with the instance id, the session would have another name than before.
    return region().catch((error) => {
      const why = error instanceof ImdsProxyError ? error.problem : describeUnforeseen(error);
      throw new Refusal(503, "unavailable", `the region is not known: ${why}`);
    });
  }
}

function instanceIdOf(found: UpstreamAnswer): string | null {
  // Without the instance id the session would have another name now than a minute later.
  if (found.kind === "failed")
    throw new Refusal(503, "unavailable", `the instance id is not known: ${found.why}`);
  return found.kind === "found" ? found.body.trim() : null;
}
