import { describe, expect, test } from "bun:test";
import { describeCommand, everyCommand } from "../../src/cli/describe.ts";
import { argumentText, EXAMPLES, synopsis, TOPICS } from "../../src/cli/help.ts";
import { keysOf, type Schema } from "../../src/cli/man-keys.ts";
import { PAGES } from "../../src/cli/man-pages.ts";
import { literal, prose } from "../../src/cli/roff.ts";
import { root } from "../../src/cli/root.ts";
import { run } from "../../src/cli/run.ts";
import { configJsonSchema } from "../../src/config/known-keys.ts";
import { parseConfig } from "../../src/config/load.ts";

/** The man pages against what they are made of. What groff and mandoc say of them: test/host/man.test.ts. */

const program = await describeCommand(root);
const schema = configJsonSchema() as Schema;
const source = { program, schema, version: "1.2.3", date: "2026-01-02" };
const programPage = PAGES["imdsproxy.8"](source);
const configurationPage = PAGES["imdsproxy-config.5"](source);

/** A page without its macros and escapes, in one line. */
const flat = (page: string): string =>
  page
    .split("\n")
    .map((line) => line.replace(/^\.(?:SS|SH|B|TP|PP)\b ?"?(.*?)"?$/, "$1"))
    .join(" ")
    .replaceAll("\\&", "")
    .replaceAll("\\-", "-")
    .replaceAll("\\(aq", "'")
    .replaceAll("\\(ga", "`")
    .replaceAll("\\(ti", "~")
    .replaceAll("\\(dq", '"')
    .replaceAll(/\\\[u([0-9A-F]+)\]/g, (_, code: string) => String.fromCodePoint(Number.parseInt(code, 16)))
    .replaceAll(/\s+/g, " ");
const asRead = (text: string): string => text.replaceAll("`", "").replaceAll(/\s+/g, " ").trim();

describe("imdsproxy(8)", () => {
  /** From a command's heading to the next. */
  const sections = new Map(
    programPage
      .split(/^\.SS /m)
      .slice(1)
      .map((text) => [flat(text.split("\n")[0] ?? "").replaceAll('"', ""), text.split(/^\.SH /m)[0] ?? ""]),
  );
  for (const info of everyCommand(program).slice(1)) {
    test(`has ${info.path.join(" ")} with every flag, argument and example`, () => {
      const text = flat(sections.get(synopsis(info)) ?? "");
      expect(text).toContain(asRead(info.description));
      for (const arg of info.args) {
        expect(text).toContain(` ${argumentText(arg)} `);
        expect(text).toContain(asRead(arg.description));
      }
      for (const { line, says } of EXAMPLES[info.path.join(" ")] ?? []) {
        expect(text).toContain(line);
        expect(text).toContain(asRead(says));
      }
    });
  }

  test("has every topic of the help, with each word of it", () => {
    const read = flat(programPage);
    for (const { title, text, name } of TOPICS) {
      if (name !== "exit-codes") expect(read).toContain(title.toUpperCase());
      for (const line of text.split("\n")) {
        for (const part of line.trim().split(/ {2,}/)) expect(read).toContain(asRead(part));
      }
    }
  });
});

describe("imdsproxy-config(5)", () => {
  const keys = keysOf(schema);

  test("has every key, and each has a description that editors show as well", () => {
    const read = flat(configurationPage);
    expect(keys.length).toBeGreaterThan(60);
    expect(keys.map(({ path }) => path)).toContain("rules[].match.group");
    expect(keys.map(({ path }) => path)).toContain("limits.newConnectionsPerUser.burst");
    for (const { path, description } of keys) {
      expect([path, description]).not.toEqual([path, ""]);
      expect(read).toContain(` ${path} ${asRead(description)}`);
    }
  });

  test("says types and defaults as the file has them", () => {
    const of = (path: string) => keys.find((one) => one.path === path);
    expect(of("listen")).toMatchObject({ type: "text", fallback: "127.0.0.1:254" });
    expect(of("role")).toMatchObject({ type: "text or null", fallback: "null" });
    expect(of("imds.tokens")).toMatchObject({ type: "auto, optional or required", fallback: "auto" });
    expect(of("durationSeconds")).toMatchObject({ type: "whole number from 900 to 3600", fallback: "3600" });
    expect(of("limits.assumeRolePerUser.burst")).toMatchObject({ fallback: "200", required: false });
    expect(of("rules[].role")).toMatchObject({ type: "none or text", fallback: null, required: true });
    expect(of("rules[].match.user")).toMatchObject({ type: "text or list of text", required: false });
  });

  test("the defaults that it and the schema name are those that an empty file has", () => {
    const file: Record<string, unknown> = {};
    for (const [name, one] of Object.entries(schema.properties ?? {})) {
      if (one.default !== undefined) file[name] = one.default;
    }
    for (const name of ["listen", "upstream", "exempt", "metrics", "containers", "log", "limits"])
      expect(Object.keys(file)).toContain(name);
    expect(parseConfig(JSON.stringify(file), "defaults")).toEqual(parseConfig("", "empty"));
  });

  test("its example is a good configuration", () => {
    const example = /^\.SH "EXAMPLE"\n[\s\S]*?\.nf\n([\s\S]*?)\.fi/m.exec(configurationPage)?.[1] ?? "";
    const text = example.replaceAll("\\-", "-").replaceAll("\\(dq", '"');
    expect(parseConfig(text, "example").rules.map(({ name }) => name)).toEqual(["data engineers", "guests"]);
  });
});

describe("roff", () => {
  for (const [name, page] of Object.entries(PAGES)) {
    test(`${name} is ASCII in lines of 80, and no text in it begins a request`, () => {
      for (const line of page(source).split("\n")) {
        expect(line).toMatch(/^[\u0020-\u007e]*$/);
        if (!/^\.S[SH] |^\.B |imdsproxy /.test(line)) expect(line.length).toBeLessThanOrEqual(80);
        if (/^[.']/.test(line)) expect(line).toMatch(/^\.(?:TH|SH|SS|PP|TP|B|I|RS|RE|nf|fi|nh|ad|br)\b/);
      }
      expect(page(source)).toContain('"2026-01-02" "imdsproxy 1.2.3"');
    });
  }
  const cases: [text: string, roff: string][] = [
    [".so /etc/shadow", "\\&.so /etc/shadow"],
    ["'quoted", "\\(aqquoted"],
    ["a\\nb", "a\\enb"],
    ["--dry-run", "\\-\\-dry\\-run"],
    ["für", "f\\[u00FC]r"],
  ];
  for (const [text, roff] of cases) test(`literal: ${text}`, () => expect(literal(text)).toBe(roff));
  test("prose breaks its lines, and keeps flags and what is quoted to the letter", () => {
    expect(prose("a well-known flag is --json; `a-b`")).toEqual(["a well-known flag is \\-\\-json; a\\-b"]);
    const lines = prose(`${"word ".repeat(15)} .dots`);
    expect(lines.length).toBe(2);
    for (const line of lines) expect(line).not.toMatch(/^\./);
  });
});

test("man names the pages that there are, where it is asked for another", () =>
  expect(run(["man", "imdsproxy.1"])).rejects.toThrow(
    /imdsproxy\.1[\s\S]*imdsproxy\.8, imdsproxy-config\.5/,
  ));
