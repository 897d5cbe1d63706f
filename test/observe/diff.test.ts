import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import { difference, differenceText, type Subject } from "../../src/observe/diff.ts";
import { named } from "./support.ts";

const ROLE = (name: string) => `arn:aws:iam::123456789012:role/${name}`;
/** Agent is uid 700 on this node. */
const side = (text: string) => ({
  config: parseConfig(text, "test"),
  exemptions: new Map([[0, "root"], ...(text.includes("agent") ? [[700, "exempt"] as const] : [])]),
});
const subject = (user: string, more: Parameters<typeof named>[1] = {}): Subject => ({
  who: user,
  where: "login",
  ...named(user, more),
});
const OLD = `
role: ${ROLE("All")}
listen: 127.0.0.1:988
rules:
  - { name: data, match: { user: data }, role: "${ROLE("Data")}", externalId: hidden-id }
`;
const NEW = `
exempt: [root, agent]
imds: { deny: [meta-data/tags] }
rules:
  - { name: data team, match: { user: data }, role: "${ROLE("Data")}", sessionName: "{user}", externalId: other-id }
  - { name: bob, match: { user: bob }, role: "${ROLE("Bob")}" }
  - { name: everybody, match: { user: same }, role: "${ROLE("All")}" }
`;
const people = [
  subject("data"),
  subject("bob", { categories: [["meta-data/tags/instance", 2]] }),
  subject("agent", { uid: 700 }),
  subject("alice"),
  subject("same"),
  subject("root", { uid: 0 }),
];

describe("difference()", () => {
  const found = difference(side(OLD), side(NEW), people);
  test("has whose role, session, exemption or answers differ, and nobody else", () => {
    expect(
      found.changes.map(({ who, before, after, session, lost }) => [
        who,
        before.kind,
        after.kind,
        session,
        lost,
      ]),
    ).toEqual([
      ["data", "role", "role", ["sessionName", "externalId"], []],
      ["bob", "role", "role", [], ["meta-data/tags/instance"]],
      ["agent", "role", "exempt", [], []],
      ["alice", "role", "refused", [], ["meta-data/iam/security-credentials"]],
    ]);
    expect(found.unchanged).toBe(2);
  });
  test("names the other keys that differ", () => expect(found.keys).toEqual(["listen", "imds"]));
  test("is nothing between a configuration and itself", () => {
    expect(difference(side(NEW), side(NEW), people)).toEqual({ changes: [], unchanged: 6, keys: [] });
  });
  test("shows no external id, in text and in JSON", () => {
    expect(JSON.stringify(found) + differenceText(found, "callers")).not.toMatch(/hidden-id|other-id/);
  });
});

test("differenceText() is a table that fits 80 columns, with what differs below each line", () => {
  const text = differenceText(difference(side(OLD), side(NEW), people), "callers");
  expect(text).toContain("WHO            WHERE                  BEFORE               AFTER\n");
  expect(text).toContain(
    "alice          login                  All                  refused\n  refused: no rule matched",
  );
  expect(text).toContain("  session differs in: sessionName, externalId");
  expect(text).toContain("  404 then, though asked for: meta-data/tags/instance");
  expect(text).toEndWith("4 of 6 callers get something else\nkeys that differ besides: listen, imds");
  expect(differenceText({ changes: [], unchanged: 3, keys: [] }, "accounts")).toBe(
    "0 of 3 accounts get something else",
  );
});
