import { describe, expect, test } from "bun:test";
import type { Outcome } from "./bench.ts";
import { CLIENTS } from "./list.ts";
import { type Findings, reportOf, shown } from "./report.ts";

const outcome = (more: Partial<Outcome>): Outcome => ({
  who: null,
  exitCode: 1,
  timedOut: false,
  seconds: 1.24,
  says: "Unable to locate credentials",
  output: "Unable to locate credentials\n",
  requests: [],
  ...more,
});

describe("shown()", () => {
  const cases: [what: string, says: string, expected: string][] = [
    ["a line as it is", "Unable to locate credentials", "`Unable to locate credentials`"],
    ["nothing", "", "nothing"],
    ["no path of a machine", "from /run/programs/ruby/client.rb:7:in 'main'", "`from PATH 'main'`"],
    [
      "no time, no address of an object",
      "2026-11-25T22:29:26.842Z [CRT] chain@63798ca7 failed",
      "`[CRT] chain failed`",
    ],
    ["what would end a table's cell", "a | b `c`", "`a \\| b 'c'`"],
  ];
  for (const [what, says, expected] of cases)
    test(`${what}: ${says || "(empty)"}`, () => {
      expect(shown(says)).toBe(expected);
    });

  test("of a long line its beginning and its end", () => {
    const text = shown(`begin${"-".repeat(400)}end`);
    expect(text).toStartWith("`begin");
    expect(text).toEndWith("end`");
    expect(text.length).toBeLessThan(170);
  });
});

describe("reportOf()", () => {
  const [client] = CLIENTS;
  if (client === undefined) throw new Error("there are clients");
  const found: Findings = {
    client,
    version: "1.2.3",
    lacking: null,
    optional: ["token", "role-list", "role-credentials"],
    required: ["token", "role-list 401"],
    slowOptional: 1,
    slowRequired: 3,
    restart: true,
    end: false,
    well: outcome({ seconds: 0.5 }),
    refused: outcome({ exitCode: 0 }),
    denied: outcome({ exitCode: 134 }),
    away: outcome({ seconds: 90.8, timedOut: false }),
  };
  const report = reportOf([found], new Date("2026-11-25T12:00:00Z"));

  test("dates itself, and has a row for what was tried and for what was asked", () => {
    expect(report).toContain("on 2026-11-25:");
    expect(report).toContain(`| ${client.name} | 1.2.3 | yes | at the 3. user | yes | **no** |`);
    expect(report).toContain(`| ${client.name} | 3: T L C | 2: T L:401 |`);
  });

  test("names the faults that the outcomes show", () => {
    expect(report).toContain(`${client.name}: exits with 0 at whoever a rule refuses.`);
    expect(report).toContain(`${client.name}: its process is ended by signal 6 at a denied role.`);
    expect(report).toContain(`${client.name}: tries for 91 s at a proxy that is away.`);
  });

  test("says why a client is not there, and has no row for it", () => {
    const text = reportOf(
      [{ client, version: "", lacking: "there is no go here; it comes with Go" }],
      new Date(),
    );
    expect(text).toContain(`Not tried, because it could not be had: ${client.name} (there is no go here`);
    expect(text).not.toContain(`| ${client.name} |`);
  });
});
