import type { Caller } from "../identity/caller.ts";
import type { Identity } from "../identity/types.ts";
import { unitOf } from "../identity/unit.ts";
import type { Decision } from "../rules/decide.ts";
import type { JournalField } from "./journal-entry.ts";
import type { Fields } from "./log.ts";

/**
 * A line of the audit: one decision, who it was about and why. Its fields are documented in docs/audit.md and stay as they are.
 * It holds no secret. Users choose some of its texts (the name of their account, the path of a cgroup of their own). Each is
 * encoded as a JSON value, or as a field of the journal with its length, so that it can end neither a line nor a field.
 */
export interface AuditRecord {
  /** Milliseconds since the epoch: when it was decided. */
  readonly atMs: number;
  readonly decision: "granted" | "refused";
  /** Why, in words. */
  readonly reason: string;
  /** The kind of a refusal, as the metric imdsproxy_refusals_total has it; null where it was granted. */
  readonly kind: string | null;
  readonly caller: Caller;
  /** What is known of the caller beside their uid; null where nothing is. */
  readonly identity: Identity | null;
  /** The groups that any rule names. */
  readonly namedGroups: ReadonlySet<string>;
  /** Null where the request was refused before a rule was looked for. */
  readonly rules: Decision | null;
  /** Null where the request could not be read. */
  readonly imdsVersion: 1 | 2 | null;
  readonly route: string;
  /** Null where the connection was closed without an answer. */
  readonly status: number | null;
  readonly accessKeyId: string | null;
  /** Milliseconds from the request's turn to its answer; null where it had none. */
  readonly tookMs: number | null;
  /** The number of this user's decisions that the line stands for. */
  readonly count: number;
}

/** The longest text of a line, in UTF-16 units: a directory may give names of any length. */
const MAX_TEXT = 1_024;
/** Groups of one line. */
const MAX_GROUPS = 64;

/** The values of a record, by their names in the line; undefined where a value is unknown or does not apply. */
export function auditFields(record: AuditRecord) {
  const { caller, identity, rules } = record;
  const request = rules?.kind === "role" ? rules.request : null;
  const groups = identity?.groups.filter((group) => record.namedGroups.has(group)).slice(0, MAX_GROUPS) ?? [];
  const cgroup = identity?.cgroup ?? null;
  const tags = Object.fromEntries(request?.tags ?? []);
  return {
    time: new Date(record.atMs).toISOString(),
    decision: record.decision,
    reason: clipped(record.reason),
    kind: record.kind ?? undefined,
    user: clipped(identity?.user),
    uid: caller.kind === "owner" ? caller.owner.uid : undefined,
    ownerUid: identity?.ownerUid,
    container: caller.kind === "container" ? caller.address : undefined,
    groups: groups.length === 0 ? undefined : groups.map((group) => clipped(group)),
    cgroup: clipped(cgroup),
    unit: clipped(unitOf(cgroup)),
    slurmJob: clipped(identity?.slurmJobId),
    imdsVersion: record.imdsVersion ?? undefined,
    route: record.route,
    status: record.status ?? undefined,
    rule: clipped(rules?.rule),
    role: request?.roleArn,
    sessionName: request?.sessionName,
    sourceIdentity: request?.sourceIdentity ?? undefined,
    tags: request === null || request.tags.length === 0 ? undefined : tags,
    grants: rules?.kind === "role" ? rules.grants?.map((name) => clipped(name)) : undefined,
    policyArns:
      request === null || request.policyArns.length === 0
        ? undefined
        : request.policyArns.map((arn) => clipped(arn)),
    accessKeyId: record.accessKeyId ?? undefined,
    durationMs: record.tookMs === null ? undefined : Math.round(record.tookMs * 1_000) / 1_000,
    count: record.count,
  } satisfies Fields;
}

/** The names of the fields in the journal, by their names in the line. */
const JOURNAL_NAMES = {
  decision: "DECISION",
  reason: "REASON",
  kind: "KIND",
  user: "USER",
  uid: "UID",
  ownerUid: "OWNER_UID",
  container: "CONTAINER",
  groups: "GROUP",
  cgroup: "CGROUP",
  unit: "UNIT",
  slurmJob: "SLURM_JOB",
  imdsVersion: "IMDS_VERSION",
  route: "ROUTE",
  status: "STATUS",
  rule: "RULE",
  role: "ROLE",
  sessionName: "SESSION_NAME",
  sourceIdentity: "SOURCE_IDENTITY",
  tags: "TAG",
  grants: "GRANT",
  policyArns: "POLICY_ARN",
  accessKeyId: "ACCESS_KEY_ID",
  durationMs: "DURATION_MS",
  count: "COUNT",
} as const;

/** The fields of the journal's entry beside its message: `IMDSPROXY_USER`, …; a group or a tag (`key=value`) is a field each. */
export function journalFields(fields: ReturnType<typeof auditFields>): JournalField[] {
  return Object.entries(JOURNAL_NAMES).flatMap(([name, suffix]) =>
    textsOf(fields[name as keyof typeof JOURNAL_NAMES]).map(
      (text): JournalField => [`IMDSPROXY_${suffix}`, text],
    ),
  );
}

/** The names of the fields in the journal, for the docs' test. */
export const JOURNAL_FIELD_NAMES: readonly string[] = Object.values(JOURNAL_NAMES).map(
  (suffix) => `IMDSPROXY_${suffix}`,
);

function textsOf(value: unknown): string[] {
  if (value === undefined || value === null) return [];
  if (Array.isArray(value)) return value.map(String);
  if (typeof value === "object") return Object.entries(value).map(([key, text]) => `${key}=${text}`);
  return [String(value)];
}

/** The text, cut where it is too long, with a mark that it was; undefined where there is none. */
function clipped<T extends string | null | undefined>(
  text: T,
): T extends string ? string : string | undefined;
function clipped(text: string | null | undefined): string | undefined {
  if (text === null || text === undefined) return undefined;
  if (text.length <= MAX_TEXT) return text;
  // Half of a character beyond the first 65,536 would make the whole value one that is no text (identity/name-text.ts).
  return `${text.slice(0, MAX_TEXT).replace(/[\ud800-\udbff]$/, "")}…`;
}
