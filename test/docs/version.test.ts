import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
const changelog = readFileSync("CHANGELOG.md", "utf8");
const headings = [...changelog.matchAll(/^## \[([^\]]+)\](?: - (\S+))?$/gm)].map(([, name, date]) => ({
  name,
  date,
}));

test("the changelog begins with what is not released, then the version of package.json, each with its day", () => {
  expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  expect(headings[0]).toEqual({ name: "Unreleased", date: undefined });
  expect(headings[1]?.name).toBe(version);
  const days = headings.slice(1).map(({ date }) => date ?? "");
  for (const day of days) expect(day).toMatch(/^\d{4}-\d{2}-\d{2}$/);
  expect(days).toEqual([...days].sort().reverse());
});

test("its sections are those of Keep a Changelog, in their order, and none is empty", () => {
  const ORDER = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
  for (const part of changelog.split(/^## /m).slice(1)) {
    const sections = part.split(/^### /m).slice(1);
    const names = sections.map((section) => section.split("\n")[0] ?? "");
    expect(names).toEqual(ORDER.filter((name) => names.includes(name)));
    for (const section of sections) expect(section).toMatch(/^- /m);
  }
});

test("no file of the program has the version besides package.json", () => {
  const found = ["src", "scripts"].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .map((name) => join(folder, name))
      .filter((path) => /\.(?:ts|sh)$/.test(path) && readFileSync(path, "utf8").includes(version)),
  );
  expect([
    ...found,
    ...["README.md", "Makefile"].filter((path) => readFileSync(path, "utf8").includes(version)),
  ]).toEqual([]);
});
