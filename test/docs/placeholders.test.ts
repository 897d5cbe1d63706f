import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { z } from "zod";
import { configSchema } from "../../src/config/schema.ts";
import { PLACEHOLDERS } from "../../src/rules/placeholders.ts";

test("README.md has the placeholders that there are, in one table", () => {
  const rows = PLACEHOLDERS.map(({ name, means, absent }) => `| \`{${name}}\` | ${means} | ${absent} |`);
  const readme = readFileSync("README.md", "utf8").split("\n");
  expect(readme.filter((line) => line.startsWith("| `{"))).toEqual(rows);
});

test("config schema names them where a template is taken", () => {
  const schema = JSON.stringify(z.toJSONSchema(configSchema, { io: "input", unrepresentable: "any" }));
  for (const { name, means } of PLACEHOLDERS) expect(schema).toContain(`{${name}}: ${means}`);
});
