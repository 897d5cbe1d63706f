/** docs/clients.md, from what the clients did. Pure. */
import type { Outcome } from "./bench.ts";
import type { Client } from "./list.ts";

/** What was found of one client; what is not there was not tried. */
export interface Findings {
  readonly client: Client;
  readonly version: string;
  /** Why it is not here, or null. */
  readonly lacking: string | null;
  /** The requests of one identity, by what the node wants of tokens. */
  readonly optional?: readonly string[];
  readonly required?: readonly string[];
  /** A run that gets its credentials, to compare the others' seconds with. */
  readonly well?: Outcome;
  readonly refused?: Outcome;
  readonly denied?: Outcome;
  readonly away?: Outcome;
  /** How many users it took until one had credentials at their first try, with STS at 1.4 s. */
  readonly slowOptional?: number;
  readonly slowRequired?: number;
  readonly restart?: boolean;
  readonly end?: boolean;
}

const LETTERS: Readonly<Record<string, string>> = {
  token: "T",
  "role-list": "L",
  "role-credentials": "C",
};

/** `T L C`, with the status where it is not 200. */
function letters(requests: readonly string[] | undefined): string {
  if (requests === undefined) return "-";
  const said = requests.map((request) => {
    const [route = "", status] = request.split(" ");
    return `${LETTERS[route] ?? route}${status === undefined ? "" : `:${status}`}`;
  });
  return `${requests.length}: ${said.join(" ")}`;
}

/** The beginning and the end tell most: a chain of causes ends with its cause. */
const MOST = 150;
const shortened = (text: string) =>
  text.length <= MOST ? text : `${text.slice(0, MOST / 3)} … ${text.slice((-MOST * 2) / 3)}`;

/** What a person sees, in one line, without what differs from run to run. */
export function shown(says: string): string {
  const text = says
    .replaceAll(/@[0-9a-f]{5,8}\b/g, "")
    .replaceAll(/^\d{4}-\d\d-\d\dT\S+ /g, "")
    .replaceAll(/\b\d{19}\b/g, "N")
    .replaceAll(/\x1b\[[0-9;]*m/g, "")
    .replaceAll(/\S*\/(?:home|tmp|root|run)\/\S*/g, "PATH")
    .replaceAll(/\b[0-9a-f]{8}-[0-9a-f-]{27}\b/g, "ID")
    .replaceAll("|", "\\|")
    .replaceAll("`", "'");
  if (text === "") return "nothing";
  return `\`${shortened(text)}\``;
}

const seconds = (outcome: Outcome) =>
  outcome.timedOut ? `still trying after ${Math.round(outcome.seconds)}` : outcome.seconds.toFixed(1);

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

/** A table of what one kind of failure looks like. */
function failures(all: readonly Findings[], kind: "refused" | "denied" | "away"): string {
  const rows = all.flatMap(({ client, well, ...found }) => {
    const outcome = found[kind];
    if (outcome === undefined) return [];
    const usual = well === undefined ? "-" : seconds(well);
    return [[client.name, seconds(outcome), usual, String(outcome.exitCode), shown(outcome.says)]];
  });
  return table(["client", "seconds", "(else)", "exit", "what a person sees"], rows);
}

/** `yes`, or at which user's first try it worked. */
const tries = (count: number | undefined) =>
  count === undefined ? "-" : count === 1 ? "yes" : `at the ${count}. user`;
const held = (client: Client, well: boolean | undefined, kind: "restart" | "end") =>
  client.keeps !== undefined && kind === "end"
    ? "keeps it"
    : client.long
      ? well === undefined
        ? "-"
        : well
          ? "yes"
          : "**no**"
      : "one run each";

/** Faults of clients themselves that the run shows. */
function faults(all: readonly Findings[]): string[] {
  const found: string[] = [];
  for (const { client, ...one } of all) {
    for (const [kind, outcome] of [
      ["whoever a rule refuses", one.refused],
      ["a denied role", one.denied],
      ["a proxy that is away", one.away],
    ] as const) {
      if (outcome === undefined) continue;
      if (outcome.exitCode === 0) found.push(`${client.name}: exits with 0 at ${kind}.`);
      if (outcome.exitCode > 128 && outcome.exitCode < 160 && !outcome.timedOut)
        found.push(`${client.name}: its process is ended by signal ${outcome.exitCode - 128} at ${kind}.`);
      if (outcome.seconds > 15 + (one.well?.seconds ?? 0))
        found.push(`${client.name}: tries for ${Math.round(outcome.seconds)} s at ${kind}.`);
      if (outcome.output.trim() === "") found.push(`${client.name}: says nothing at ${kind}.`);
    }
    if (client.onlyV1 !== undefined)
      found.push(`${client.name}: ${client.onlyV1}: it gets nothing from a node that requires IMDSv2.`);
    if (client.keeps !== undefined) found.push(`${client.name}: ${client.keeps}.`);
  }
  return found;
}

/** The whole document. */
export function reportOf(all: readonly Findings[], at: Date): string {
  const there = all.filter(({ lacking }) => lacking === null);
  const lacking = all.filter((one) => one.lacking !== null);
  return `# Clients

Written by \`make test-clients\` on ${at.toISOString().slice(0, 10)}: do not edit by hand. Each client ran on a simulated node with the redirect in place, with its
default chain of credentials and the region given, one process for each run. Seconds are those of the whole process, on a
machine of two cores that did other work as well: "(else)" is what a run that gets its credentials took there.

## What was tried
Each gave the substitute role to alice and the instance role to root. "Slow" is the first try of a user whom the proxy has never
seen, with STS at 1.4 s, where tokens are optional and where they are required; the last two columns are a program that keeps
running while the proxy is restarted and while its session ends, which here lasts 30 s. The proxy itself hands out no session
with less than 20 minutes while STS answers: two clients that keep a short one too long ("keeps it") do not meet this there.
**no**: at its next question it had no credentials within its own limits of time.

${table(
  ["client", "version", "slow", "slow, tokens required", "restart", "session's end"],
  there.map(({ client, version, slowOptional, slowRequired, restart, end }) => [
    client.name,
    version,
    tries(slowOptional),
    client.onlyV1 === undefined ? tries(slowRequired) : "no IMDSv2",
    held(client, restart, "restart"),
    held(client, end, "end"),
  ]),
)}
${lacking.length === 0 ? "" : `\nNot tried, because it could not be had: ${lacking.map(({ client, lacking: why }) => `${client.name} (${why})`).join("; ")}.\n`}
## Requests
What one question for credentials asks of the metadata service: T the token, L the list of roles, C the credentials; a status
where it is not 200.

${table(
  ["client", "tokens optional", "tokens required"],
  there.map(({ client, optional, required }) => [client.name, letters(optional), letters(required)]),
)}

## What a person sees
A rule gives the user no role: the list of roles is 404, as on a node without a role.

${failures(there, "refused")}

STS denies the role (\`AccessDenied\`): the credentials are 200 with a \`Code\` that is not \`Success\`.

${failures(there, "denied")}

The proxy is away: the connection is refused.

${failures(there, "away")}

## Faults of the clients themselves
${faults(there)
  .map((line) => `- ${line}`)
  .join("\n")}
`;
}
