/** What the rules of a configuration say, as far as a decision needs it. The configuration's own types fit these. */

/** The conditions of a rule on an identity: all parts that are present must hold; of a list, any item. */
export interface Match {
  /** Account names. */
  readonly user?: readonly string[] | undefined;
  /** Uids, from low to high, both included. */
  readonly uid?: readonly { readonly from: number; readonly to: number }[] | undefined;
  /** Group names. */
  readonly group?: readonly string[] | undefined;
  /** Globs over the cgroup v2 path; see glob.ts. */
  readonly cgroup?: readonly string[] | undefined;
  /** Globs over the name of the system service in whose cgroup the caller is; see src/identity/unit.ts. */
  readonly unit?: readonly string[] | undefined;
  /** Whether the caller is inside a Slurm job. */
  readonly slurmJob?: boolean | undefined;
}

/** Session policies for the callers of a rule who also satisfy `match`; see grants.ts. */
export interface Grant {
  readonly name: string;
  readonly match: Match;
  /** ARNs of managed policies. */
  readonly policyArns: readonly string[];
}

/** One rule. Texts are templates; see template.ts. */
export interface Rule {
  readonly name: string;
  readonly match: Match;
  /** The ARN of a role, or `none` to refuse. */
  readonly role: string;
  readonly sessionName?: string | undefined;
  readonly durationSeconds?: number | undefined;
  readonly sourceIdentity?: string | null | undefined;
  readonly tags: Readonly<Record<string, string>>;
  readonly transitiveTagKeys: readonly string[];
  readonly policyArns: readonly string[];
  /** JSON text. */
  readonly policy: string | null;
  readonly externalId: string | null;
  /** `union`: a session has the policies of all `grants` that match. Absent: `policyArns` and `policy`. */
  readonly grant?: "union" | undefined;
  readonly grants?: readonly Grant[] | undefined;
}

/** The rules, and the defaults. */
export interface RulesConfig {
  /** In their order: the first that matches decides. */
  readonly rules: readonly Rule[];
  /** The role of a caller whom no rule matches; null to refuse. */
  readonly role: string | null;
  readonly sessionName: string;
  readonly durationSeconds: number;
  /** The name of the cluster, for `{cluster}`; null for none. */
  readonly cluster?: string | null | undefined;
  /** What a rule by user or group does with a uid that has no name: refuse it, or pass on to the next rule. */
  readonly nameless: "refuse" | "default";
}
