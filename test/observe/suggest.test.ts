import { describe, expect, test } from "bun:test";
import { parseConfig } from "../../src/config/load.ts";
import type { NamedCaller } from "../../src/observe/outcome.ts";
import { PLACEHOLDER_ROLE, suggestion } from "../../src/observe/suggest.ts";
import { named } from "./support.ts";

const facts = {
  passwd: [
    "root:x:0:0::/root:/bin/bash",
    "cwagent:x:990:990::/:/usr/sbin/nologin",
    "www-data:x:33:33::/var/www:/usr/sbin/nologin",
    "deploy:x:991:991::/home/deploy:/bin/bash",
    "alice:x:2001:2001::/home/alice:/bin/bash",
  ].join("\n"),
  shadow: "deploy:$6$x:::::::",
};
const unit = (name: string) => ({ kind: "unit", name }) as const;
const draft = (...callers: NamedCaller[]) =>
  suggestion({ node: "node1", runs: [{ fromMs: 0, toMs: 60_000, missed: 2 }], callers }, facts, "imdsproxy");
const parsed = (...callers: NamedCaller[]) => parseConfig(draft(...callers), "draft");

const root = named("root", { uid: 0, place: unit("amazon-ssm-agent.service") });
const agent = named("cwagent", {
  uid: 990,
  place: unit("amazon-cloudwatch-agent.service"),
  program: "/opt/cwa",
});
const alice = named("alice");

describe("suggestion()", () => {
  test("passes config check: exempt daemons, a rule for everybody else, each with what was seen", () => {
    const text = draft(root, agent, alice);
    const config = parseConfig(text, "draft");
    expect(config.exempt).toEqual(["root", "cwagent"]);
    expect(config.role).toBeNull();
    expect(config.rules.map(({ name, match, role }) => [name, match.user, role])).toEqual([
      ["alice", ["alice"], PLACEHOLDER_ROLE],
    ]);
    expect(text).toContain(
      '  # alice, login session, python3.11: 1 request, IMDSv2, for meta-data/iam/security-credentials\n  - name: "alice"',
    );
    expect(text).toContain("  # cwagent, amazon-cloudwatch-agent.service, cwa: 1 request");
    expect(text).toContain(
      "# from 1970-01-01 00:00 to 1970-01-01 00:01 UTC: 3 requests by 3 callers; 2 packets missed.",
    );
  });
  test("exempts nobody who may be a person, who asked from elsewhere, or whose unit runs others' code", () => {
    const cases: [NamedCaller[], string][] = [
      [[named("alice", { place: unit("cron.service") })], ""],
      [[named("deploy", { uid: 991, place: unit("deploy.service") })], "its password is not locked"],
      [
        [named("www-data", { uid: 33, place: unit("apache2.service") })],
        "apache2.service runs what others give it",
      ],
      [
        [agent, named("cwagent", { uid: 990, place: { kind: "login" } })],
        "asked from elsewhere than a system unit",
      ],
      [[named("ldapagent", { uid: 500, place: unit("x.service") })], "/etc/passwd does not have it"],
    ];
    for (const [callers, why] of cases) {
      expect(parsed(...callers).exempt).toEqual(["root"]);
      expect(parsed(...callers).rules.length).toBe(1);
      expect(draft(...callers)).toContain(why);
    }
  });
  test("exempts no daemon that gets what it asks for without", () => {
    const reader = named("cwagent", {
      uid: 990,
      place: agent.place,
      categories: [["meta-data/placement/region", 5]],
    });
    expect(parsed(reader)).toMatchObject({ exempt: ["root"], rules: [] });
    expect(draft(reader)).toContain("# Asked for no credentials, and need no rule:\n# cwagent,");
  });
  test("names a role in one place", () => {
    const people = Array.from({ length: 60 }, (_, i) =>
      named(`user${i}`, { uid: 3_000 + i, requests: 60 - i }),
    );
    const nameless = Array.from({ length: 3 }, (_, i) => named(null, { uid: 5_000 + i, requests: 1 }));
    const text = draft(...people, ...nameless);
    expect(text.split(PLACEHOLDER_ROLE).length).toBe(2);
    const { rules } = parseConfig(text, "draft");
    expect(rules.length).toBe(51);
    expect(rules.flatMap(({ match }) => match.user ?? []).length).toBe(60);
    expect(rules.flatMap(({ match }) => match.uid ?? []).map(({ from }) => from)).toEqual([
      5_000, 5_001, 5_002,
    ]);
  });
  test("opens no category and requires no token: it says who asked, for somebody to decide", () => {
    const asked = named("alice", {
      v1: 4,
      categories: [
        ["user-data", 1],
        ["meta-data/iam/security-credentials", 3],
      ],
    });
    expect(parsed(asked).imds).toEqual({ tokens: "auto", allow: [], deny: [] });
    expect(draft(asked)).toContain("#   user-data: alice\n# imds: { allow: [user-data] }");
    expect(draft(asked)).toContain("IMDSv1, without a token, is still used");
    expect(draft(alice)).toContain("# imds: { tokens: required }");
  });
  test("what users choose stays in comments, and names in quotes", () => {
    const hostile = "x\nrole: arn:aws:iam::123456789012:role/Admin\n#";
    const callers = [
      named("alice", {
        program: `/${hostile}`,
        arguments: [hostile],
        categories: [
          ["unknown", 1],
          [hostile, 1],
        ],
      }),
      named(`bob"]}\nexempt: [bob]`, { uid: 2002 }),
      named("yes", { uid: 2003 }),
      named("1e3", { uid: 2004 }),
      named("b\udc80b", { uid: 2005 }),
      named("domain\\user", { uid: 2006 }),
      named("(further users)", { uid: 2007 }),
    ];
    const config = parsed(...callers);
    expect([config.role, config.exempt]).toEqual([null, ["root"]]);
    expect(config.rules.map(({ match }) => match.user?.[0] ?? match.uid?.[0]?.from).sort()).toEqual(
      ["1e3", 2002, 2005, 2006, 2007, "alice", "yes"].sort(),
    );
  });
  test("says that containers asked, and where nobody did, how to give a role", () => {
    const bridged = named(null, { uid: null, container: "172.17.0.2", place: { kind: "bridge" } });
    expect(draft(bridged)).toContain("# containers: proxy");
    expect(parsed(bridged).containers).toBe("leave");
    expect(parsed()).toMatchObject({ rules: [], role: null });
  });
});
