import { SCHEMA_LINE } from "../config/known-keys.ts";
import { PLACEHOLDERS } from "../rules/placeholders.ts";
import { CONFIG, CONFIG_SCHEMA, OBJECT_UNITS, ROOT_STATE_DIRECTORY, UNITS } from "../service/paths.ts";
import { type ArgumentInfo, type CommandInfo, everyCommand } from "./describe.ts";
import { argumentText, EXAMPLES, synopsis, TOPICS } from "./help.ts";
import { keysOf, type Schema } from "./man-keys.ts";
import { code, item, laidOut, page, paragraph, prose, section, subsection, titleLines } from "./roff.ts";

/** The man pages, made of the commands' definitions, of the help and of the configuration's schema; pure. */

export interface PageSource {
  readonly program: CommandInfo;
  /** The configuration as a JSON Schema. */
  readonly schema: Schema;
  readonly version: string;
  /** The day of the page, as `2026-11-26`. */
  readonly date: string;
}

/** The pages by their files' names. */
export const PAGES = {
  "imdsproxy.8": programPage,
  "imdsproxy-config.5": configurationPage,
} as const satisfies Record<string, (source: PageSource) => string>;
export type PageName = keyof typeof PAGES;

const MANUAL = "imdsproxy manual";
const title = (name: string, number: number, { version, date }: PageSource): string[] =>
  titleLines(name, number, { date, source: `imdsproxy ${version}`, manual: MANUAL });

const sentence = (text: string): string => (/[.:?!]$/.test(text) ? text : `${text}.`);

const argumentItem = (arg: ArgumentInfo): string[] => item(argumentText(arg), sentence(arg.description));

function commandLines(info: CommandInfo): string[] {
  const examples = EXAMPLES[info.path.join(" ")] ?? [];
  return [
    subsection(synopsis(info)),
    ...paragraph(sentence(info.description)),
    ...info.args.flatMap(argumentItem),
    ...examples.flatMap(({ line, says }) => [...paragraph(`${says}:`), ...code([line])]),
  ];
}

function programPage(source: PageSource): string {
  const { program } = source;
  const [, ...commands] = everyCommand(program);
  const topic = (name: string) => TOPICS.find((one) => one.name === name)?.text ?? "";
  return page([
    ...title("imdsproxy", 8, source),
    section("NAME"),
    "imdsproxy \\- gives the users of a shared AWS node a role of their own",
    section("SYNOPSIS"),
    ".B imdsproxy",
    ".I COMMAND",
    "[\\fIOPTIONS\\fR]",
    section("DESCRIPTION"),
    ...paragraph(
      "imdsproxy answers in place of the instance metadata service (IMDS) of an AWS node, and gives each ordinary user short-lived " +
        "credentials of a less permissive role, by sts:AssumeRole. Root keeps the role of the node. Users change nothing: every AWS " +
        "SDK and tool asks the same address as before.",
    ),
    ...paragraph(
      "Every command has `--help`. Commands that report have `--json`; commands that change the node have `--dry-run`, and can be " +
        "run twice.",
    ),
    ...(EXAMPLES[""] ?? []).flatMap(({ line, says }) => [...paragraph(`${says}:`), ...code([line])]),
    section("COMMANDS"),
    ...commands.flatMap(commandLines),
    subsection("imdsproxy help [COMMAND|TOPIC]"),
    ...paragraph("Show the help of a command, or a topic. Without either: all commands and topics."),
    subsection("imdsproxy --version"),
    ...paragraph("Print the version in one line."),
    ...TOPICS.filter(({ name }) => name !== "exit-codes").flatMap(({ title: heading, text }) => [
      section(heading.toUpperCase()),
      ...laidOut(text),
    ]),
    section("EXIT STATUS"),
    ...laidOut(topic("exit-codes")),
    section("ENVIRONMENT"),
    ...item("NO_COLOR", "Where it is set and not empty, nothing is coloured."),
    section("FILES"),
    ...item(CONFIG, "The configuration: imdsproxy-config(5)."),
    ...item(CONFIG_SCHEMA, "Its schema, for editors."),
    ...item("/var/lib/imdsproxy", "The state of the proxy: the key of its tokens."),
    ...item(ROOT_STATE_DIRECTORY, "The state of root's units: the last rules, and what was observed."),
    ...Object.values(UNITS)
      .map((unit) => `/etc/systemd/system/${unit}`)
      .flatMap((path) => item(path, "")),
    ...item(
      "/var/lib/imdsproxy-fleet",
      "The copy of the fleet's object, where the configuration has config.",
    ),
    ...Object.values(OBJECT_UNITS)
      .map((unit) => `/etc/systemd/system/${unit}`)
      .flatMap((path) => item(path, "")),
    section("SEE ALSO"),
    ...paragraph("imdsproxy-config(5), iptables(8), systemctl(1), journalctl(1)"),
  ]);
}

function configurationPage(source: PageSource): string {
  return page([
    ...title("imdsproxy-config", 5, source),
    section("NAME"),
    "imdsproxy-config \\- the configuration of imdsproxy",
    section("SYNOPSIS"),
    ...paragraph(CONFIG),
    section("DESCRIPTION"),
    ...paragraph(
      "One file in YAML. Every key has a default. Unknown keys, bad values and rules that can never match are errors, which name the " +
        "line and what would be right: `imdsproxy config check FILE`. `systemctl reload imdsproxy` takes up a changed file without a " +
        "restart; a file with an error changes nothing.",
    ),
    ...paragraph(
      "An editor with yaml-language-server completes and checks the file as it is written, by the schema that `imdsproxy config schema` " +
        "prints and setup puts beside it, where the first line names it:",
    ),
    ...code([SCHEMA_LINE]),
    section("EXAMPLE"),
    ...code([
      "role: arn:aws:iam::123456789012:role/NodeUsers",
      "rules:",
      "  - name: data engineers",
      "    match: { group: [data-eng] }",
      "    role: arn:aws:iam::123456789012:role/DataEng",
      '    sessionName: "{user}"',
      "  - name: guests",
      "    match: { uid: [60000-64999] }",
      "    role: none",
    ]),
    section("KEYS"),
    ...paragraph(
      "A dot stands between a key and one inside of its mapping, [] after a key whose value is a list: rules[].name is the key name of " +
        "each rule.",
    ),
    ...keysOf(source.schema).flatMap(({ path, type, fallback, description, required }) => [
      ...item(path, sentence(description)),
      ".br",
      ...prose(
        `Type: ${type}${required ? ", required" : ""}.${fallback === null ? "" : ` Default: \`${fallback}\`.`}`,
      ),
    ]),
    section("PLACEHOLDERS"),
    ...paragraph(
      "sessionName, sourceIdentity and the values of tags may hold these. Characters that AWS does not take become _. A text that was " +
        "changed in this way, or is too long, ends in a hash of the whole, so that two different texts stay different.",
    ),
    ...PLACEHOLDERS.flatMap(({ name, means, absent }) =>
      item(
        `{${name}}`,
        `${sentence(capital(means))} In a session's name, where there is none: ${sentence(absent)}`,
      ),
    ),
    section("SEE ALSO"),
    ...paragraph("imdsproxy(8)"),
  ]);
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
