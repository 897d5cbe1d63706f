/**
 * The placeholders of session names, source identities and tags. The table in README.md and the texts of `config schema` are
 * generated from this.
 */

/** One placeholder. */
export interface Placeholder {
  readonly name: string;
  readonly means: string;
  /** What replaces it in a session name or a source identity where there is no value. */
  readonly absent: string;
}

/** Replaces a placeholder without a value in a name. */
export const ABSENT = "none";

export const PLACEHOLDERS = [
  {
    name: "user",
    means: "the account's name",
    absent: "`uid=N` for a uid without a name, `container=ADDRESS` for a container",
  },
  { name: "uid", means: "the caller's uid", absent: "`none` for a container" },
  { name: "instanceId", means: "the node's instance id", absent: "`none` where the node has none" },
  {
    name: "region",
    means: "the region in which the node is, as its metadata service says",
    absent: "always there: refused where the service names none, 503 while it does not answer",
  },
  {
    name: "slurmJobId",
    means: "the id of the Slurm job in whose cgroup the caller is",
    absent: "`none` outside of a job",
  },
  { name: "slurmUser", means: "the account's name, in a Slurm job alone", absent: "`none` outside of a job" },
  {
    name: "group",
    means: "the first group of the rule's `match` that the caller is in; people of one group get one text",
    absent: "always there: only a rule that matches by `group` may have it",
  },
  { name: "hostname", means: "the node's host name", absent: "`none` where the node has none" },
  {
    name: "cluster",
    means: "the value of the key `cluster`",
    absent: "always there: an error without that key",
  },
] as const satisfies readonly Placeholder[];

export type PlaceholderName = (typeof PLACEHOLDERS)[number]["name"];

/** A source identity stays with the session through role chaining. So it may name the user and the purpose, but not the node. */
export const SOURCE_IDENTITY_PLACEHOLDERS: readonly string[] = PLACEHOLDERS.map(({ name }) => name).filter(
  (name) => name !== "instanceId" && name !== "hostname",
);

/** The placeholders in words, for the description of a key. */
export const describePlaceholders = (allowed: readonly string[] = PLACEHOLDERS.map(({ name }) => name)) =>
  PLACEHOLDERS.filter(({ name }) => allowed.includes(name))
    .map(({ name, means, absent }) => `{${name}}: ${means} (${absent.replaceAll("`", "")})`)
    .join("; ");
