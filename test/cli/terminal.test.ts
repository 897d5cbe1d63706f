import { describe, expect, test } from "bun:test";
import {
  durationText,
  jsonText,
  momentText,
  painter,
  plain,
  takesColours,
  widthOf,
  wrap,
} from "../../src/cli/terminal.ts";

const [S, MIN, H, D] = [1_000, 60_000, 3_600_000, 86_400_000];

describe("durationText()", () => {
  for (const [ms, text] of [
    [-5, "0 s"],
    [0, "0 s"],
    [499, "0 s"],
    [12 * S, "12 s"],
    [43 * MIN + 59 * S, "43 min"],
    [H, "1 h"],
    [3 * H + 12 * MIN, "3 h 12 min"],
    [2 * D + 4 * H + 5 * MIN, "2 d 4 h"],
    [2 * D + 59 * MIN, "2 d"],
  ] as const) {
    test(`${ms} ms are ${text}`, () => expect(durationText(ms)).toBe(text));
  }
});

describe("momentText()", () => {
  const nowMs = Date.UTC(2030, 0, 1);
  for (const [ms, text] of [
    [43 * MIN, "in 43 min"],
    [-5 * S, "5 s ago"],
    [300, "now"],
  ] as const) {
    test(`${ms} ms away is ${text}`, () =>
      expect(momentText(new Date(nowMs + ms).toISOString(), nowMs)).toBe(text));
  }
  test("nonsense is no moment", () => expect(momentText("soon", nowMs)).toBe("at an unknown time"));
});

describe("what a terminal could take for a command is not printed:", () => {
  const HOSTILE = "a\u001b[2Jb\u009b31mc\u0007\rd\u202ee\u2066f\u007f";
  test("by plain()", () =>
    expect(plain(HOSTILE)).toBe("a\\u001b[2Jb\\u009b31mc\\u0007\\u000dd\\u202ee\\u2066f\\u007f"));
  test("by jsonText(), which stays JSON of the same value", () => {
    const value = { [HOSTILE]: [HOSTILE, "é 日本"] };
    const text = jsonText(value);
    expect(JSON.parse(text)).toEqual(value);
    expect(plain(text.replaceAll("\n", ""))).toBe(text.replaceAll("\n", ""));
  });
  test("what is not to be seen is, so that no name looks like another's by it", () => {
    const unseen = ["bob\u200b", "bob\u{e0041}", "b\u00adob", "\ufeffbob"];
    expect(unseen.map(plain)).toEqual(["bob\\u200b", "bob\\udb40\\udc41", "b\\u00adob", "\\ufeffbob"]);
    const text = jsonText(unseen);
    expect(JSON.parse(text)).toEqual(unseen);
    expect(text).not.toMatch(/[^ -~\n]/);
  });
  test("letters of every script stay", () => expect(plain("é 日本 émile")).toBe("é 日本 émile"));
});

describe("wrap()", () => {
  test("breaks between words", () => expect(wrap("one two three", 8, "  ")).toEqual(["one two", "  three"]));
  test("leaves a long word whole", () => expect(wrap("aaaaaaaaaa b", 4)).toEqual(["aaaaaaaaaa", "b"]));
});

test("widthOf() is of terminals alone", () => {
  expect(widthOf({})).toBeNull();
  expect(widthOf({ isTTY: true, columns: 100 })).toBe(100);
  expect(widthOf({ isTTY: true, columns: 10 })).toBe(40);
  expect(widthOf({ isTTY: true })).toBe(80);
});

test("colours are for terminals, where NO_COLOR and TERM allow it", () => {
  expect(takesColours({ isTTY: true }, {})).toBe(true);
  expect(takesColours({ isTTY: true }, { NO_COLOR: "" })).toBe(true);
  expect(takesColours({ isTTY: true }, { NO_COLOR: "1" })).toBe(false);
  expect(takesColours({ isTTY: true }, { TERM: "dumb" })).toBe(false);
  expect(takesColours({}, {})).toBe(false);
  expect(painter(true)("red", "x")).toBe("\u001b[31mx\u001b[0m");
  expect(painter(false)("red", "x")).toBe("x");
});
