import { describe, expect, spyOn, test } from "bun:test";
import { run } from "../../src/cli/run.ts";
import { CHECKS } from "../../src/doctor/checks.ts";

/** What a command line prints. */
async function printed(...argv: string[]): Promise<string> {
  const log = spyOn(console, "log").mockImplementation(() => {});
  try {
    await run(["doctor", ...argv]);
    return log.mock.calls.flat().join("\n");
  } finally {
    log.mockRestore();
  }
}

describe("imdsproxy doctor", () => {
  test("list has every check, also as JSON", async () => {
    const text = await printed("list");
    for (const { id, title } of CHECKS) {
      expect(text).toContain(id);
      expect(text.replaceAll(/\s+/g, " ")).toContain(title);
    }
    const json = JSON.parse(await printed("list", "--json")) as { id: string }[];
    expect(json.map(({ id }) => id)).toEqual(CHECKS.map(({ id }) => id));
  });

  test("explain ID says one at length, also as JSON", async () => {
    expect(await printed("explain", "clock")).toContain("chronyc makestep");
    expect(JSON.parse(await printed("explain", "clock", "--json"))).toMatchObject({
      id: "clock",
      level: "warning",
    });
  });

  const wrong: [argv: string[], says: string][] = [
    [["explain"], "which check?"],
    [["explain", "no-such"], "there is no check"],
    [["list", "clock"], "does not take the argument"],
    [["check"], "does not take the argument"],
    [["--json", "--sarif"], "exclude each other"],
    [["--yson"], "--json"],
    [["--as"], "--as"],
  ];
  for (const [argv, says] of wrong) {
    test(`${argv.join(" ")} is called wrongly`, async () => {
      const failed = await run(["doctor", ...argv]).catch((error: unknown) => error);
      expect(failed).toMatchObject({ code: "usage", exitCode: 2 });
      expect(String(failed)).toContain(says);
    });
  }
});
