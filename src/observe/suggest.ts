import { categoryFilter, categoryProblem } from "../config/categories.ts";
import { SCHEMA_LINE } from "../config/known-keys.ts";
import { daemonProblem, type PlatformFacts } from "../firewall/platform-accounts.ts";
import type { NamedCaller } from "./outcome.ts";
import { placeText } from "./place.ts";
import { plainText } from "./plain-text.ts";
import type { Observed } from "./record.ts";
import { programText, times, userText, who } from "./report.ts";
import { CREDENTIALS_CATEGORY, outcomeOfCategory } from "./request.ts";

/**
 * A draft of a configuration from what was observed. Only accounts of daemons become exempt, and only where all their requests came
 * from system units that do not run other people's code. Everybody else gets a rule. The names of users' programs are written into
 * comments only. Pure.
 */

/** A valid ARN, of an account that AWS uses in its own examples. */
export const PLACEHOLDER_ROLE = "arn:aws:iam::123456789012:role/REPLACE-ME";

/** Units that run other people's code, under the unit's own account or under theirs. */
const OF_OTHERS =
  /^(?:cron|crond|anacron|atd|sshd?|sshd@.*|slurmd|slurmctld|slurmrestd|munge|apache2|httpd|nginx|php.*|lighttpd|uwsgi.*|gunicorn.*|jupyter.*|jupyterhub|rstudio.*|docker|containerd|podman|kubelet|buildkit.*|gitlab-runner|github.*|actions\.runner.*|jenkins.*|postfix|exim4|dovecot|mariadb|mysqld?|postgresql.*|user@.*|session-.*)\.(?:service|scope|socket)$/;
/** Rules with one user each; those who asked less often share one. */
const MOST_RULES = 50;
/** Names that YAML and the configuration take as they are. */
const PLAIN_NAME = /^[A-Za-z0-9_.@+ $-]{1,64}$/;
const MOST_COMMENTS = 6;
/** No name of an account that is used as it is has parentheses. */
const FURTHER = "(further users)";

interface Person {
  readonly name: string;
  readonly uid: number;
  /** True where the name cannot stand in a configuration, or there is none. */
  readonly byUid: boolean;
  readonly callers: readonly NamedCaller[];
  readonly requests: number;
}

/** @param facts this node's own accounts: nothing that a directory says makes somebody exempt. */
export function suggestion(
  observed: Observed,
  facts: Pick<PlatformFacts, "passwd" | "shadow">,
  serviceAccount: string,
): string {
  const people = peopleOf(observed.callers).filter(({ uid, name }) => uid !== 0 && name !== serviceAccount);
  const exempt = people.filter((one) => whyNotExempt(one, facts) === null);
  const rest = people.filter((one) => !exempt.includes(one) && asksForCredentials(one.callers));
  const others = people.filter((one) => !exempt.includes(one) && !rest.includes(one));
  const root = observed.callers.filter(({ uid }) => uid === 0);
  const containers = observed.callers.filter(({ container }) => container !== null);
  const lines = [...head(observed), "", ...exemptLines(root, exempt)];
  lines.push("", ...tokenLines(observed.callers), ...allowLines(observed.callers));
  if (containers.length > 0) {
    lines.push(
      "# Containers behind a bridge asked as well. `containers: proxy` brings them to the proxy, `reject` refuses them.",
      ...commentsOf(containers),
      "# containers: proxy",
      "",
    );
  }
  lines.push(...ruleLines(rest, facts));
  if (others.length > 0) {
    lines.push("", "# Asked for no credentials, and need no rule:");
    lines.push(...others.flatMap(({ callers }) => commentsOf(callers)));
  }
  return `${lines.join("\n")}\n`;
}

function head({ node, runs, callers }: Observed): string[] {
  const date = (ms: number) => new Date(ms).toISOString().slice(0, 16).replace("T", " ");
  const from = Math.min(...runs.map(({ fromMs }) => fromMs));
  const to = Math.max(...runs.map(({ toMs }) => toMs));
  const missed = runs.reduce((sum, run) => sum + run.missed, 0);
  const requests = callers.reduce((sum, caller) => sum + caller.requests, 0);
  return [
    SCHEMA_LINE,
    `# A draft of /etc/imdsproxy/config.yaml by imdsproxy observe, from what was seen on ${plainText(node, 80)}`,
    `# from ${date(from)} to ${date(to)} UTC: ${times(requests, "request")} by ${times(callers.length, "caller")}; ${times(missed, "packet")} missed.`,
    "# What did not run then is not in it. Programs and arguments are what the processes call themselves.",
    "# Put your roles in the place of REPLACE-ME, read every line, then: imdsproxy config check FILE",
  ];
}

function peopleOf(callers: readonly NamedCaller[]): Person[] {
  const byUser = new Map<string, NamedCaller[]>();
  for (const caller of callers) {
    if (caller.uid === null) continue;
    const { uid, account } = caller;
    const known = account !== null && account.userUnavailable === undefined && account.conflict === undefined;
    const name =
      known && account.user !== null && PLAIN_NAME.test(account.user) ? account.user : `uid ${uid}`;
    const before = byUser.get(name);
    if (before === undefined) byUser.set(name, [caller]);
    else before.push(caller);
  }
  return [...byUser]
    .map(([name, own]) => ({
      name,
      uid: own[0]?.uid ?? 0,
      byUid: name === `uid ${own[0]?.uid}`,
      callers: own,
      requests: own.reduce((sum, { requests }) => sum + requests, 0),
    }))
    .sort((a, b) => b.requests - a.requests || (a.name < b.name ? -1 : 1));
}

const asksForCredentials = (callers: readonly NamedCaller[]): boolean =>
  callers.some(({ categories }) =>
    categories.some(([category]) => category.startsWith(CREDENTIALS_CATEGORY) || category === "unknown"),
  );

/** Why an account is not suggested as exempt; null for a daemon of the node that asked for something that users do not get. */
function whyNotExempt(
  { name, byUid, callers }: Person,
  facts: Pick<PlatformFacts, "passwd" | "shadow">,
): string | null {
  if (byUid) return "it has no name";
  const problem = daemonProblem(name, facts);
  if (problem !== null) return problem;
  const elsewhere = callers.find(({ place }) => place.kind !== "unit" || OF_OTHERS.test(place.name));
  if (elsewhere !== undefined)
    return elsewhere.place.kind === "unit"
      ? `${elsewhere.place.name} runs what others give it`
      : `it asked from elsewhere than a system unit (${placeText(elsewhere.place)})`;
  const filter = categoryFilter([], []);
  const needs = callers.some(({ categories }) =>
    categories.some(
      ([category]) =>
        category.startsWith(CREDENTIALS_CATEGORY) || outcomeOfCategory(category, filter, true) !== "served",
    ),
  );
  return needs ? null : "it gets what it asks for without";
}

function exemptLines(root: readonly NamedCaller[], exempt: readonly Person[]): string[] {
  return [
    "# Whoever is exempt keeps the instance role, and so does everybody who can run code as them.",
    "exempt:",
    ...commentsOf(root, "  "),
    "  - root",
    ...exempt.flatMap(({ name, callers }) => [...commentsOf(callers, "  "), `  - ${quoted(name)}`]),
  ];
}

function ruleLines(people: readonly Person[], facts: Pick<PlatformFacts, "passwd" | "shadow">): string[] {
  if (people.length === 0) {
    return [
      "# Nobody but root and those who are exempt asked for credentials. Whoever asks later is refused, until there is a role:",
      `# role: ${PLACEHOLDER_ROLE}`,
    ];
  }
  const single = people.slice(0, people.length > MOST_RULES ? MOST_RULES - 1 : MOST_RULES);
  const shared = people.slice(single.length);
  const lines = [
    "# Whom no rule names is refused. For a role for everybody else, set `role` beside `rules`.",
    "rules:",
  ];
  for (const [index, person] of single.entries()) {
    const why = person.byUid ? null : daemonNote(person, facts);
    lines.push(
      ...commentsOf(person.callers, "  "),
      ...(why === null ? [] : [`  # Not exempt: ${plainText(why, 200)}.`]),
      ...(person.callers.every(({ place }) => place.kind === "slurm")
        ? ["  # Seen in Slurm jobs alone: `slurmJob: true` in the match keeps it to them."]
        : []),
      `  - name: ${quoted(person.name)}`,
      `    match: ${matchOf([person])}`,
      // The first names the role, the others repeat it: one place to change.
      `    role: ${index === 0 ? `&users ${PLACEHOLDER_ROLE}` : "*users"}`,
    );
  }
  if (shared.length > 0) {
    lines.push(`  # ${times(shared.length, "user")} who asked less often.`, `  - name: ${quoted(FURTHER)}`);
    const [byUid, byName] = [shared.filter((one) => one.byUid), shared.filter((one) => !one.byUid)];
    // All parts of a match must hold: names and uids are two rules.
    const groups = [byName, byUid].filter((group) => group.length > 0);
    lines.push(`    match: ${matchOf(groups[0] ?? [])}`, "    role: *users");
    if (groups[1] !== undefined)
      lines.push(
        `  - name: ${quoted(`${FURTHER} by uid`)}`,
        `    match: ${matchOf(groups[1])}`,
        "    role: *users",
      );
  }
  return lines;
}

/** Why a daemon's account has a rule and no exemption; null for a person's. */
function daemonNote(person: Person, facts: Pick<PlatformFacts, "passwd" | "shadow">): string | null {
  return person.uid < 1_000 ? whyNotExempt(person, facts) : null;
}

const matchOf = (people: readonly Person[]): string =>
  people[0]?.byUid === true
    ? `{ uid: [${people.map(({ uid }) => uid).join(", ")}] }`
    : `{ user: [${people.map(({ name }) => quoted(name)).join(", ")}] }`;

/** JSON's strings are YAML's; the names have nothing in them that the two read differently. */
const quoted = (name: string): string => JSON.stringify(name);

function tokenLines(callers: readonly NamedCaller[]): string[] {
  const v1 = callers.filter((caller) => caller.v1 > 0 && caller.uid !== 0);
  if (v1.length > 0)
    return [
      "# IMDSv1, without a token, is still used, so that `imds: { tokens: required }` would break:",
      ...commentsOf(v1),
      "",
    ];
  return callers.some(({ v2 }) => v2 > 0)
    ? ["# Every user's request that could be read had a token:", "# imds: { tokens: required }", ""]
    : [];
}

/** Categories that are not open to users, and who asked for them. They stay closed: each is a decision. */
function allowLines(callers: readonly NamedCaller[]): string[] {
  const filter = categoryFilter([], []);
  const asked = new Map<string, NamedCaller[]>();
  for (const caller of callers) {
    if (caller.uid === 0) continue;
    for (const [category] of caller.categories) {
      if (categoryProblem(category) !== null || outcomeOfCategory(category, filter, true) !== "not found")
        continue;
      asked.set(category, [...(asked.get(category) ?? []), caller]);
    }
  }
  if (asked.size === 0) return [];
  return [
    "# Asked for, and closed to users: 404. `allow` opens one by its name; user-data often has secrets.",
    ...[...asked].flatMap(([category, who]) => [
      `#   ${category}: ${plainText([...new Set(who.map(userText))].join(", "), 160)}`,
    ]),
    `# imds: { allow: [${[...asked.keys()].join(", ")}] }`,
    "",
  ];
}

/** What was seen of some callers, one line each. */
function commentsOf(callers: readonly NamedCaller[], indent = ""): string[] {
  const lines = callers.slice(0, MOST_COMMENTS).map((caller) => {
    const asked = plainText(caller.categories.map(([category]) => category).join(", "), 160);
    const versions = [...(caller.v1 > 0 ? ["IMDSv1"] : []), ...(caller.v2 > 0 ? ["IMDSv2"] : [])].join(
      " and ",
    );
    const parts = [times(caller.requests, "request"), versions, asked === "" ? "" : `for ${asked}`];
    return `${indent}# ${who(caller)}: ${parts.filter((part) => part !== "").join(", ")}`;
  });
  const more = callers.length - MOST_COMMENTS;
  return more > 0
    ? [...lines, `${indent}# and ${times(more, "caller")} more, such as ${programs(callers)}`]
    : lines;
}

const programs = (callers: readonly NamedCaller[]): string =>
  plainText([...new Set(callers.slice(MOST_COMMENTS).map(programText))].slice(0, 5).join(", "), 120);
