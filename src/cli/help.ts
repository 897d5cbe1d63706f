import type { ArgumentInfo, CommandInfo } from "./describe.ts";
import { type Style, wrap } from "./terminal.ts";

/** Examples and topics of the help. The man pages have the same (man.ts). */

export interface Example {
  /** As it is typed, with the program's name. */
  readonly line: string;
  readonly says: string;
}

/** Examples by the path of their command. A test parses each as the program would. */
export const EXAMPLES: Readonly<Record<string, readonly Example[]>> = {
  "": [
    {
      line: "sudo imdsproxy setup --role-arn arn:aws:iam::123456789012:role/NodeUsers",
      says: "Installs, starts and verifies the service: every user but root has this role",
    },
    { line: "sudo imdsproxy status", says: "Whether all is well, and what is not" },
    { line: "imdsproxy whoami", says: "Which role you get, and why" },
  ],
  setup: [
    {
      line: "sudo imdsproxy setup --config policy.yaml",
      says: "Installs this configuration, or takes it up where the service runs",
    },
    {
      line: "sudo imdsproxy setup --config policy.yaml --dry-run",
      says: "Shows each step, and changes nothing",
    },
    {
      line: "sudo imdsproxy setup --config policy.yaml --verify-as alice",
      says: "Verifies as alice in place of nobody",
    },
  ],
  status: [
    { line: "sudo imdsproxy status --watch", says: "Draws the screen again every two seconds" },
    { line: "sudo imdsproxy status --json", says: "The same for scripts" },
    { line: "imdsproxy status", says: "Your own role, session and requests" },
  ],
  explain: [
    { line: "sudo imdsproxy explain alice", says: "Which role alice gets, and by which rule" },
    { line: "sudo imdsproxy explain alice --slurm-job 4711", says: "The same inside a Slurm job" },
    {
      line: "imdsproxy explain 2001 --config new.yaml",
      says: "What a configuration that is not installed would give",
    },
  ],
  warm: [
    { line: "imdsproxy warm", says: "Gets your session before the first program asks" },
    {
      line: "sudo imdsproxy warm alice --spread 5",
      says: "In a prolog on many nodes: waits for up to five seconds first",
    },
  ],
  serve: [
    {
      line: "sudo imdsproxy serve --config policy.yaml",
      says: "Runs the proxy in the foreground, to try a configuration",
    },
  ],
  iptables: [
    { line: "sudo imdsproxy iptables status", says: "What of the rules is missing or changed" },
    { line: "sudo imdsproxy iptables apply", says: "Puts them right" },
  ],
  "iptables apply": [
    { line: "sudo imdsproxy iptables apply --dry-run", says: "Shows the rules, and changes nothing" },
  ],
  service: [
    {
      line: "sudo imdsproxy service disable",
      says: "Stops everything: every user has the instance role again",
    },
    { line: "sudo imdsproxy service enable", says: "Starts it again" },
    { line: "sudo imdsproxy service uninstall", says: "Leaves nothing on the node" },
  ],
  config: [
    { line: "imdsproxy config check policy.yaml", says: "Names each wrong line, with what would be right" },
  ],
  "config sign": [
    {
      line: "imdsproxy config sign --key K.pem --fleet hpc --serial 7 --out o.yaml p.yaml",
      says: "Checks the rules, runs their tests, and writes the object that nodes take",
    },
  ],
  "config fetch": [
    {
      line: "sudo imdsproxy config fetch --dry-run",
      says: "Whether this node would take the object that is there",
    },
  ],
  iam: [
    {
      line: "imdsproxy iam trust-policy --config policy.yaml",
      says: "What the trust policies of the roles must allow",
    },
    {
      line: "imdsproxy iam permissions-policy --config policy.yaml",
      says: "What the node's role must be allowed",
    },
  ],
  completion: [
    { line: "imdsproxy completion bash", says: "In ~/.bashrc: source <(imdsproxy completion bash)" },
  ],
};

interface Topic {
  readonly name: string;
  readonly title: string;
  readonly text: string;
}

export const TOPICS: readonly Topic[] = [
  {
    name: "start",
    title: "From nothing to a node that is set up",
    text: `1. Write down who gets what, and check it. The shortest configuration is one
   role for every user:

     role: arn:aws:iam::123456789012:role/NodeUsers

     imdsproxy config check policy.yaml

2. Let IAM allow it: what these print belongs to the role's trust policy, and to
   the permissions of the node's own role.

     imdsproxy iam trust-policy --config policy.yaml
     imdsproxy iam permissions-policy --config policy.yaml

3. Look at what would be done, then do it. Setup ends by asking as an ordinary
   user.

     sudo imdsproxy setup --config policy.yaml --dry-run
     sudo imdsproxy setup --config policy.yaml

4. Look.

     sudo imdsproxy status
     imdsproxy whoami`,
  },
  {
    name: "rules",
    title: "Who gets which role",
    text: `The first rule that matches decides. All of a match must hold; a list means any
of it. A caller whom no rule matches gets the role of the key \`role\`, or is
refused where that key is not set.

  role: arn:aws:iam::123456789012:role/NodeUsers
  rules:
    - name: data engineers
      match: { group: [data-eng] }
      role: arn:aws:iam::123456789012:role/DataEng
    - name: guests
      match: { user: [guest] }
      role: none

  imdsproxy config check FILE       names each wrong line
  sudo imdsproxy explain USER       says which rule matches, and why
  sudo systemctl reload imdsproxy   takes up changed rules without a restart`,
  },
  {
    name: "trouble",
    title: "When something does not work",
    text: `  sudo imdsproxy status            the first line names what is wrong; below it
                                   is what to do
  imdsproxy whoami                 as the user: the role, the rule, the error
  sudo imdsproxy explain USER      what the configuration gives a user
  sudo imdsproxy iptables status   what of the rules is missing or changed
  journalctl -u imdsproxy -u imdsproxy-iptables -u imdsproxy-repair
  docs/troubleshooting.md          each message, with its cause and what to do

A user who is refused sees "Unable to locate credentials" in the AWS CLI, as on
a node without a role. Nothing opens when a part fails: without the proxy,
users are refused.`,
  },
  {
    name: "undo",
    title: "How to undo it",
    text: `  sudo imdsproxy service disable     stops everything and gives the node its
                                     firewall back: every user has the instance
                                     role again
  sudo imdsproxy service enable      starts it again
  sudo imdsproxy service uninstall   leaves nothing on the node

\`systemctl stop\` of a unit leaves the rules in place: users are refused, and
nothing opens.`,
  },
  {
    name: "exit-codes",
    title: "How commands end",
    text: `  0   done, or healthy
  1   not done, or not healthy
  2   called or configured wrongly

Commands that report have --json; commands that change the node have --dry-run,
and can be run twice. Colours are for terminals; NO_COLOR=1 leaves them out.`,
  },
];

/** How a command is called: `imdsproxy explain USER [OPTIONS]`. */
export function synopsis({ path, args, subCommands }: CommandInfo): string {
  const positionals = args
    .filter(({ kind }) => kind === "positional")
    .map(({ name, required }) => (required ? name : `[${name}]`));
  const isGroup = subCommands.length > 0;
  const hasOptions = args.length > positionals.length;
  return [
    "imdsproxy",
    ...path,
    ...(isGroup ? ["COMMAND"] : []),
    ...positionals,
    ...(hasOptions || isGroup ? ["[OPTIONS]"] : []),
  ].join(" ");
}

/** A flag or an argument as it is shown: `--config FILE`. */
export const argumentText = ({ name, kind, hint }: ArgumentInfo): string =>
  kind === "value" ? `${name} ${hint}` : name;

/** The longest name that has its description beside it. */
const WIDEST_NAME = 24;

/** Names with what they mean beside them, or below where the name is long. */
function twoColumns(rows: readonly (readonly [name: string, text: string])[], width: number): string[] {
  const column = Math.min(WIDEST_NAME, Math.max(...rows.map(([name]) => name.length)));
  const indent = " ".repeat(column + 4);
  return rows.flatMap(([name, text]) => {
    const wrapped = wrap(text, width - indent.length).map((line) => indent + line);
    const [first = "", ...rest] = wrapped;
    return name.length <= column
      ? [`  ${name.padEnd(column)}  ${first.trimStart()}`, ...rest]
      : [`  ${name}`, ...wrapped];
  });
}

/** The help of a command. */
export function usageText(
  info: CommandInfo,
  { width, paint }: { readonly width: number; readonly paint: (style: Style, text: string) => string },
): string {
  const { path, description, args, subCommands } = info;
  const of = (kinds: readonly ArgumentInfo["kind"][]) =>
    args
      .filter(({ kind }) => kinds.includes(kind))
      .map((arg) => [argumentText(arg), arg.description] as const);
  const examples = EXAMPLES[path.join(" ")] ?? [];
  const section = (title: string, lines: readonly string[]) =>
    lines.length === 0 ? [] : ["", paint("bold", title), ...lines];
  const columns = (rows: readonly (readonly [string, string])[]) =>
    rows.length === 0 ? [] : twoColumns(rows, width);
  return [
    ...wrap(description, width),
    ...section("USAGE", [`  ${synopsis(info)}`]),
    ...section(
      "COMMANDS",
      columns(subCommands.map((sub) => [sub.path.at(-1) ?? "", sub.description] as const)),
    ),
    ...section("ARGUMENTS", columns(of(["positional"]))),
    ...section("OPTIONS", columns(of(["flag", "value"]))),
    ...section(
      "EXAMPLES",
      examples.flatMap(({ line, says }, index) => [
        ...(index === 0 ? [] : [""]),
        ...wrap(`${says}:`, width - 2).map((one) => `  ${one}`),
        `    ${line}`,
      ]),
    ),
    ...(path.length === 0 ? ["", paint("bold", "TOPICS"), topicsText()] : []),
    ...(subCommands.length === 0
      ? []
      : ["", `${["imdsproxy", ...path].join(" ")} COMMAND --help says more of a command.`]),
  ].join("\n");
}

/** The topics that there are. */
export function topicsText(): string {
  const width = Math.max(...TOPICS.map(({ name }) => name.length));
  return `  imdsproxy help TOPIC\n\n${TOPICS.map(({ name, title }) => `    ${name.padEnd(width)}  ${title}`).join("\n")}`;
}

/** One topic; null where there is none of that name. */
export function topicText(name: string): string | null {
  const topic = TOPICS.find((one) => one.name === name);
  return topic === undefined ? null : `${topic.title}\n\n${topic.text}`;
}
