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
  test("of many stars takes no more than its length times the path's: twice the path, about twice the time", () => {
    const glob = compileGlob(`/${"**a".repeat(20)}b`);
    const timeOf = (length: number): number => {
      const path = `/${"a".repeat(length)}`;
      const times = Array.from({ length: 5 }, () => {
        const started = performance.now();
        glob(path);
        return performance.now() - started;
      });
      return Math.min(...times);
    };
    timeOf(1_000);
    // A backtracking matcher would take 2^20 times as long.
    expect(timeOf(4_000) / timeOf(2_000)).toBeLessThan(16);
  });
});
