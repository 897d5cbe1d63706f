import { describe, expect, test } from "bun:test";
import { join } from "node:path";

const LOG = join(import.meta.dir, "../../src/telemetry/log.ts");

/** The lines that a process writes to standard error, which logs one event of each level. */
function lines(
  settings: object,
  environment: Record<string, string> = {},
  program = `for (const level of ["debug", "info", "warn", "error"]) log[level]("what " + level, { uid: 2001, why: "a \\"b\\"\\nc", left: undefined, none: null });`,
): string[] {
  program = `
    import { createLog } from ${JSON.stringify(LOG)};
    const log = createLog(${JSON.stringify(settings)});
    ${program}`;
  const run = Bun.spawnSync([process.execPath, "-e", program], {
    env: { PATH: process.env["PATH"] ?? "", ...environment },
  });
  expect([run.exitCode, run.stdout.toString()]).toEqual([0, ""]);
  return run.stderr.toString().split("\n").filter(Boolean);
}

/** A path with the escape of a terminal, DEL, a C1 control, a line separator and a change of direction. */
const ACTIVE = "/a\u001b[2J\u007f\u009b2J\u2028\u202e\u2066";

const JOURNAL = { JOURNAL_STREAM: "8:1234" };

describe("the log is one line an event,", () => {
  test("as JSON: time, level, message and the facts, whatever they hold", () => {
    const found = lines({ level: "debug", format: "json" }).map((line) => JSON.parse(line));
    expect(found.map(({ level }) => level)).toEqual(["debug", "info", "warn", "error"]);
    for (const { time, ...rest } of found) {
      expect(new Date(time).toISOString()).toBe(time);
      expect(rest).toEqual({
        level: rest.level,
        message: `what ${rest.level}`,
        uid: 2001,
        why: 'a "b"\nc',
        none: null,
      });
    }
  });

  test("under systemd with the priority that journald takes off (sd-daemon(3)), also where the format is auto", () => {
    const found = lines({ level: "debug", format: "auto" }, JOURNAL);
    expect(found.map((line) => line.slice(0, 3))).toEqual(["<7>", "<6>", "<4>", "<3>"]);
    for (const line of found) expect(() => JSON.parse(line.slice(3))).not.toThrow();
  });

  test("pretty where that is asked for, or on a terminal: each fact by its name, and none that is undefined", () => {
    const found = lines({ level: "info", format: "pretty" }, { NO_COLOR: "1" });
    expect(found).toHaveLength(3);
    for (const line of found) {
      expect(line).toContain('  uid=2001  why="a \\"b\\"\\nc"  none=null');
      expect(line).not.toContain("left");
    }
  });

  for (const format of ["json", "pretty"]) {
    test(`what a terminal would act on is escaped, with format ${format}`, () => {
      const [line = ""] = lines(
        { level: "info", format },
        { NO_COLOR: "1" },
        `log.info("x", { cgroup: ${JSON.stringify(ACTIVE)} });`,
      );
      expect(line).toContain("/a");
      expect(line.replaceAll("\n", "")).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/);
      if (format === "json") expect(JSON.parse(line).cgroup).toBe(ACTIVE);
    });
  }

  test("a record of the audit is written at every level", () => {
    const record = `log.record("info", "granted", { user: "alice", groups: ["a", "b"], tags: { team: "x" } });`;
    const [line = ""] = lines({ level: "error", format: "json" }, {}, record);
    expect(JSON.parse(line)).toMatchObject({ message: "granted", groups: ["a", "b"], tags: { team: "x" } });
  });

  for (const [level, written] of [
    ["debug", 4],
    ["info", 3],
    ["warn", 2],
    ["error", 1],
  ] as const) {
    test(`at level ${level}, ${written} of four levels`, () => {
      expect(lines({ level, format: "json" })).toHaveLength(written);
    });
  }
});
