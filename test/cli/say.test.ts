import { describe, expect, test } from "bun:test";
import { run } from "../../src/cli/run.ts";
import { errorText, fitted, fittedComments, fittedReport } from "../../src/cli/say.ts";
import { ImdsProxyError } from "../../src/errors.ts";

const LONG = "one two three four five six";

describe("fitted()", () => {
  test("breaks a line between words, and further lines hang", () => {
    expect(fitted(LONG, 14)).toBe("one two three\n  four five\n  six");
    expect(fitted(`note: ${LONG}`, 14, { indent: "    ", hanging: "" })).toBe(
      "    note: one\n    two three\n    four five\n    six",
    );
  });
  test("indents further what is wrapped of an indented line, such as one of a list of problems", () => {
    expect(fitted("two problems:\n  one is of many words\n  two", 14)).toBe(
      "two problems:\n  one is of\n    many words\n  two",
    );
  });
  test("leaves lines of a policy and of a file as they are", () => {
    const quoted = '  "Action": "sts:AssumeRole",\n   12 | key: value that is long\n      |      ^';
    expect(fitted(quoted, 14)).toBe(quoted);
  });
  test("leaves a line with a caret below it", () => {
    const excerpt = "a long line:\n    key: value that is long\n         ^";
    expect(fitted(excerpt, 14)).toBe(excerpt);
  });
  test("elsewhere than on a terminal a line stays as it is", () => expect(fitted(LONG, null)).toBe(LONG));
  test("nothing of it acts on a terminal, in a pipe neither", () => {
    for (const width of [80, null])
      expect(fitted("a\u001b]0;title\u0007b", width)).toBe("a\\u001b]0;title\\u0007b");
  });
});

test("fittedReport() keeps the indent of each line", () => {
  expect(fittedReport(`head\n  ${LONG}`, 16)).toBe("head\n  one two three\n    four five\n    six");
  expect(fittedReport(`ok   ${LONG}`, 20, "     ")).toBe("ok   one two three\n     four five six");
});

test("fittedComments() makes comments of comments, and touches nothing else of a file", () => {
  const yaml = `# yaml-language-server: $schema=a-long-name.json\n  # ${LONG}\nkey: ${LONG}`;
  expect(fittedComments(yaml, 16)).toBe(
    `# yaml-language-server: $schema=a-long-name.json\n  # one two\n  # three four\n  # five six\nkey: ${LONG}`,
  );
  expect(fittedComments(yaml, null)).toBe(yaml);
});

describe("errorText()", () => {
  const error = new ImdsProxyError("unhealthy", "the object was not taken", `${LONG}\n  { "a": "policy" }`);
  test("has the remedy below, set in, with what a policy sets in itself", () => {
    expect(errorText(error, 20)).toBe(
      'imdsproxy: the\n  object was not\n  taken\n  one two three four\n  five six\n    { "a": "policy" }',
    );
  });
  test("in a file or a pipe it is the message", () => {
    expect(errorText(error, null)).toBe(`imdsproxy: ${error.message}`);
    expect(errorText(new ImdsProxyError("unhealthy", "x"), null)).toBe("imdsproxy: x");
  });
});

test("a flag or an argument that a command needs is named where it is missing", async () => {
  const told = (argv: string[]) =>
    run(argv).then(
      () => "it ran",
      (error: unknown) => (error instanceof ImdsProxyError ? error.problem : String(error)),
    );
  expect(await told(["config", "diff", "old.yaml"])).toBe("config diff: NEW is missing");
  expect(await told(["config", "diff"])).toBe("config diff: OLD is missing");
  expect(await told(["config", "sign", "rules.yaml"])).toBe("config sign: --key is missing");
  expect(await told(["config", "sign", "rules.yaml", "--key", "k"])).toBe("config sign: --fleet is missing");
});
