import { describe, expect, test } from "bun:test";
import { redactedArguments } from "../../src/observe/arguments.ts";

const redacted = (...words: string[]) =>
  redactedArguments(["program", ...words].map((word) => `${word}\0`).join(""));

describe("redactedArguments()", () => {
  const CASES: [words: string[], kept: string[]][] = [
    [[], []],
    [
      ["train.py", "--epochs", "3", "-v", "fifth"],
      ["train.py", "--epochs", "3", "-v"],
    ],
    [["/opt/app/run.sh"], ["/opt/app/run.sh"]],
    [
      ["s3", "cp", "a.txt", "--quiet"],
      ["s3", "cp", "a.txt", "--quiet"],
    ],
    [["--password=hunter2"], ["--password="]],
    [
      ["--password", "--hunter2"],
      ["--password", "***"],
    ],
    [
      ["configure", "set", "aws_secret_access_key", "short"],
      ["configure", "set", "***", "***"],
    ],
    [["/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"], ["***"]],
    [
      ["/home/alice/secret", "x"],
      ["/home/alice/secret", "x"],
    ],
    [
      ["AWS_SECRET=x", "cmd"],
      ["AWS_SECRET=", "cmd"],
    ],
    [
      ["--password", "hunter2"],
      ["--password", "***"],
    ],
    [
      ["-u", "alice:pw", "x"],
      ["-u", "***", "x"],
    ],
    [
      ["-H", "Authorization: Bearer x"],
      ["-H", "***"],
    ],
    [
      ["-phunter2", "db"],
      ["-p***", "db"],
    ],
    [["https://user:pw@host/"], ["***"]],
    [["wJalrXUtnFEMIK7MDENGbPxRfiCY"], ["***"]],
    [["user:pw"], ["***"]],
    [["/tmp/wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLE/x"], ["***"]],
    [["wJalrXUtnFEMIK7MDENGbPxRfiCY=1"], ["***="]],
    [["a\x1b[2Jb\nc"], ["a?[2Jb?c"]],
    [["word ".repeat(50)], [`${"word ".repeat(50).slice(0, 59)}~`]],
  ];
  for (const [words, kept] of CASES) {
    test(`${JSON.stringify(words).slice(0, 60)}`, () => expect(redacted(...words)).toEqual(kept));
  }
  test("leaves out the program's own name, which it chooses itself", () =>
    expect(redactedArguments("AKIASECRET\0")).toEqual([]));
});
