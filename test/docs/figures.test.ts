import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { CHECK_INTERVAL_MS, RESOLVE_INTERVAL_MS } from "../../src/service/repair.ts";

/** A figure that pages give in words of their own, and the value in the code that it must be. */
const FIGURES = [
  {
    page: "operations.md",
    says: /The watch compares the rules every ([\d.]+) s/,
    milliseconds: CHECK_INTERVAL_MS,
  },
  {
    page: "operations.md",
    says: /The watch looks again every ([\d.]+) s: an account/,
    milliseconds: RESOLVE_INTERVAL_MS,
  },
  { page: "operations.md", says: /is taken up within ([\d.]+) s/, milliseconds: RESOLVE_INTERVAL_MS },
  {
    page: "threat-model.md",
    says: /With iptables-legacy it is ([\d.]+) s and/,
    milliseconds: CHECK_INTERVAL_MS,
  },
  {
    page: "threat-model.md",
    says: /The watch looks at routing every ([\d.]+) s/,
    milliseconds: CHECK_INTERVAL_MS,
  },
] as const;

describe("the time until a repair is the watch's own on every page that gives it:", () => {
  for (const { page, says, milliseconds } of FIGURES) {
    test(`docs/${page}: ${says.source}`, () => {
      const text = readFileSync(`docs/${page}`, "utf8").replaceAll(/\s+/g, " ");
      const found = text.match(new RegExp(says, "g")) ?? [];
      expect(found).toHaveLength(1);
      expect(Number(says.exec(text)?.[1]) * 1_000).toBe(milliseconds);
    });
  }
});
