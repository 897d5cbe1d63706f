import { describe, expect, test } from "bun:test";
import { compileGlob } from "../../src/rules/glob.ts";

describe("a glob", () => {
  const cases: [glob: string, path: string, matches: boolean][] = [
    ["/a", "/a", true],
    ["/a", "/a/b", false],
    ["/a", "/x/a", false],
    ["/a/*", "/a/b", true],
    ["/a/*", "/a/", true],
    ["/a/*", "/a/b/c", false],
    ["/a/**", "/a/b/c", true],
    ["/**/c", "/a/b/c", true],
    ["/a?c", "/abc", true],
    ["/a?c", "/a/c", false],
    ["/a.slice", "/aXslice", false],
    ["/a+(b)[c]{d}^$|\\", "/a+(b)[c]{d}^$|\\", true],
    ["/a", "/a\n", false],
    ["/user-*.slice", "/user-1000.slice", true],
  ];
  for (const [glob, path, matches] of cases) {
    test(`${glob} ${matches ? "matches" : "does not match"} ${JSON.stringify(path)}`, () => {
      expect(compileGlob(glob)(path)).toBe(matches);
    });
  }
  test("of many stars reads each letter of the path once: nothing is tried again", () => {
    const glob = compileGlob(`/${"**a".repeat(20)}b`);
    const text = `/${"a".repeat(4_000)}`;
    let read = 0;
    // A backtracking matcher would read 2^20 times as many.
    const path = new Proxy(Object(text), {
      get(target, key) {
        if (typeof key === "string" && /^\d+$/.test(key)) read++;
        return Reflect.get(target, key);
      },
    }) as string;
    expect(glob(path)).toBe(false);
    expect(read).toBe(text.length);
  });
});
