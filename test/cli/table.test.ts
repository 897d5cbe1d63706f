import { describe, expect, test } from "bun:test";
import { table } from "../../src/cli/table.ts";

const ROWS = [
  ["user", "alice"],
  ["why", "the rule asks for a job\nwhich is not known"],
] as const;

describe("table()", () => {
  test("puts the values into one column, and leaves lines as they are where nothing says how wide they may be", () =>
    expect(table(ROWS)).toBe("user  alice\nwhy   the rule asks for a job\nwhich is not known"));
  test("wraps a value beside its name on a terminal, and splits no word, which may be an ARN to copy", () => {
    expect(table(ROWS, 20)).toBe(
      ["user  alice", "why   the rule asks", "      for a job", "      which is not", "      known"].join(
        "\n",
      ),
    );
    const arn = "arn:aws:iam::123456789012:role/A";
    expect(table([["role", arn]], 20)).toBe(`role  ${arn}`);
  });
  test("leaves nothing that a terminal obeys, wrapped or not", () => {
    for (const width of [null, 40]) expect(table([["user", "a\u001b[2Jb"]], width)).not.toContain("\u001b");
  });
});
