import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";

/** `test/a.test.ts` "words of a test's name": what the documents say that a test holds. */
const REFERENCE = /`(test\/[^`\s]+\.ts)`((?:,? "[^"]+")*)/g;

describe("every test that a document names is there, by file and by name:", () => {
  for (const file of readdirSync("docs").filter((name) => name.endsWith(".md"))) {
    test(`docs/${file}`, () => {
      const text = readFileSync(`docs/${file}`, "utf8").replaceAll(/\s+/g, " ");
      const missing: string[] = [];
      for (const [, path = "", names = ""] of text.matchAll(REFERENCE)) {
        if (!existsSync(path)) {
          missing.push(path);
          continue;
        }
        const source = readFileSync(path, "utf8").replaceAll(/\s+/g, " ");
        for (const [, name = ""] of names.matchAll(/"([^"]+)"/g))
          if (!source.includes(name)) missing.push(`${path} "${name}"`);
      }
      expect(missing).toEqual([]);
    });
  }

  test("and no row of the threat model names source in place of a test", () => {
    const rows = readFileSync("docs/threat-model.md", "utf8").split("\n");
    expect(rows.filter((row) => row.startsWith("|") && row.includes("`src/"))).toEqual([]);
  });

  test("and the threat model names some", () => {
    const found = [
      ...readFileSync("docs/threat-model.md", "utf8").replaceAll(/\s+/g, " ").matchAll(REFERENCE),
    ];
    expect(found.length).toBeGreaterThan(30);
  });
});
