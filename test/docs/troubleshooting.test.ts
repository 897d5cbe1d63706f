import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { passingRemedy } from "../../src/sessions/remedy.ts";
import { isOwnCredentialsCode, isThrottlingCode } from "../../src/sessions/sts-failures.ts";
import { callsOf, lettersOf, propertiesOf, sentencesOf, textsOf } from "./support/messages.ts";

/** docs/troubleshooting.md against the messages in the source: none is missing there, and none is there that the program has not. */

const page = readFileSync("docs/troubleshooting.md", "utf8");
const flat = (text: string): string => text.replaceAll("`", "").replaceAll(/\s+/g, " ").trim();
/** A message with fewer letters of its own passes on another's, which is on the page by itself: `…: …`. */
const LETTERS = 6;
const hasWords = (text: string): boolean => lettersOf(text) >= LETTERS;

/** `…` is one that is passed on. */
const hasRemedy = (text: string): boolean => text === "…" || hasWords(text);

/** The demo's own are told on the spot, and concern nobody's node. */
const errors = callsOf("new ImdsProxyError", ["src/demo"]);
const placeOf = ({ file, line }: (typeof errors)[number]) => `${file}:${line}`;

const unfetched = ["failed", "fail"].flatMap((name) =>
  callsOf(name).filter(({ file }) => file.startsWith("src/fleet/")),
);

/** Files whose sentences are what `setup`, `config check` and the status commands say of a node. */
const REMARKS = [
  "src/service/requirements.ts",
  "src/service/port-warnings.ts",
  "src/service/login-warnings.ts",
  "src/service/node-warnings.ts",
  "src/service/parallelcluster.ts",
  "src/identity/slurm-settings.ts",
  "src/service/directory-uids.ts",
  "src/config/warnings.ts",
];
/** Shorter texts in them are names and parts. */
const SENTENCE_LETTERS = 40;

const messages = new Set(
  [
    ...errors.flatMap(({ args: [, problem = ""] }) => textsOf(problem)),
    ...["log.warn", "log.error"].flatMap((name) =>
      callsOf(name).flatMap(({ args: [text = ""] }) => textsOf(text)),
    ),
    // Why the fleet's object was not fetched: status, the journal and config fetch quote it.
    ...unfetched.flatMap(({ args: [why = ""] }) => textsOf(why)),
    // The problems of `service status`.
    ...["src/wiring", "src/telemetry"].flatMap((folder) => propertiesOf("what", folder)),
    ...propertiesOf("what", "src/service").filter((text) => text.startsWith("what answers at")),
    ...REMARKS.flatMap((file) => sentencesOf(file, SENTENCE_LETTERS)).filter((text) => !text.startsWith("/")),
  ]
    .map(flat)
    .filter(hasWords),
);

/** The rows of the page's tables of messages: what is said, and what to do. */
const rows = page
  .split("\n")
  .filter((line) => line.startsWith("| `"))
  .map((line) =>
    line
      .slice(2, -2)
      .replaceAll("\\|", "\u0000")
      .split(" | ")
      .map((cell) => cell.replaceAll("\u0000", "|")),
  )
  .map((cells) => ({ message: flat(cells[0] ?? ""), todo: flat(cells.at(-1) ?? ""), cells: cells.length }));
const sections = page.split(/^## /m);
const codes = sections.find((section) => section.startsWith("What STS says")) ?? "";
const whoami = sections.find((section) => section.startsWith("A user has no credentials")) ?? "";
const listed = rows.filter(
  ({ message }) => !flat(codes).includes(`| ${message} |`) && !whoami.includes(message),
);

describe("docs/troubleshooting.md", () => {
  test("has every message of the program", () => {
    expect(messages.size).toBeGreaterThan(120);
    const known = new Set(listed.map(({ message }) => message));
    expect([...messages].filter((message) => !known.has(message))).toEqual([]);
  });

  test("has none that the program has not, and none twice", () => {
    expect(listed.map(({ message }) => message).filter((message) => !messages.has(message))).toEqual([]);
    expect(listed.length).toBe(new Set(listed.map(({ message }) => message)).size);
  });

  test("says what to do about each", () => {
    expect(listed.filter(({ todo }) => !hasWords(todo)).map(({ message }) => message)).toEqual([]);
  });

  test("knows every code of STS's that the proxy tells apart, and says the same of it", () => {
    const source = readFileSync("src/sessions/sts-failures.ts", "utf8");
    const own = [...source.matchAll(/"([A-Z]\w+)"/g)]
      .map(([, code = ""]) => code)
      .filter((code) => isOwnCredentialsCode(code) || isThrottlingCode(code));
    expect(own.length).toBeGreaterThan(20);
    // Words of the proxy's own: the comment of StsFailureInit.code.
    for (const code of [...own, "timeout", "connection", "answer", "clock", "credentials", "AccessDenied"])
      expect([code, codes.includes(`\`${code}\``)]).toEqual([code, true]);
    for (const code of ["answer", "credentials", "ExpiredToken"])
      expect(flat(codes)).toContain(
        flat(passingRemedy(code, null)).replaceAll(/ \(chronyc tracking\)/g, " (chronyc tracking)"),
      );
  });
});

describe("each message ends with what to do next:", () => {
  test("an error has a remedy, in words or from what it passes on", () => {
    const without = errors.filter(({ args: [, , remedy] }) => remedy === undefined || /^null\b/.test(remedy));
    expect(without.map(placeOf)).toEqual([]);
    // failed() takes no other remedy than a text.
    expect(unfetched.length).toBeGreaterThan(15);
    expect(unfetched.filter(({ args: [, remedy = '""'] }) => !textsOf(remedy).every(hasRemedy))).toEqual([]);
  });
});

describe("the search for messages", () => {
  // § stands for the dollar of a template, which the linter takes for a mistake in a string.
  const cases: [expression: string, texts: string[]][] = [
    ['"plain"', ["plain"]],
    ['`with §{name} and §{list.map((one) => `x§{one}`).join(", ")}`', ["with … and …"]],
    ['"one, " +\n  `two §{2}`', ["one, two …"]],
    ['found ? "yes" : `no: §{why}`', ["yes", "no: …"]],
    ['a === 1 ? "one" : b ? "two" : "three"', ["one", "two", "three"]],
    ['a ? (b ? "x" : "y") : "z"', ["x", "y", "z"]],
    ['("in brackets")', ["in brackets"]],
    ["`trimmed §{text}`.trim()", ["trimmed …"]],
    ["error.problem", ["…"]],
    ["a?.b ?? c", ["…"]],
    ['"a \\"quoted\\" word"', ['a "quoted" word']],
  ];
  for (const [expression, texts] of cases)
    test(`reads ${expression}`, () => expect(textsOf(expression.replaceAll("§", "$"))).toEqual(texts));

  test("finds those that are known to be there", () => {
    expect(messages).toContain("S3 refuses the object to the instance role (…)");
    expect(messages).toContain("not running as root");
    expect(messages).toContain("cannot listen on …: the port is taken");
    expect(messages).toContain("AssumeRole was denied");
    expect(messages).toContain("… was changed since it was loaded, and the change is not in effect");
  });
});
