import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { loadConfig, parseConfig } from "../../src/config/load.ts";
import type { ConfigOverrides } from "../../src/config/overrides.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import { anyText, holds } from "../support/fuzz.ts";

const ROLE = "arn:aws:iam::842413447717:role/ImdsProxyTestRole";

/** What the loader says of a text, or null where it takes it. */
function complaint(text: string, overrides: ConfigOverrides = {}): string | null {
  try {
    parseConfig(text, "config.yaml", overrides);
    return null;
  } catch (error) {
    if (error instanceof ImdsProxyError && error.code === "config") return error.message;
    throw error;
  }
}

/** The example of the documentation, whole. */
const EXAMPLE = `
listen: 127.0.0.1:254
upstream: auto                      # or a URL
region: auto
sts: { endpoint: null }
role: ${ROLE}
sessionName: "{user}@{instanceId}"
durationSeconds: 3600
exempt: [root]
imds: { tokens: auto, allow: [], deny: [] }
containers: leave
limits:
  assumeRolePerUser: { perSecond: 2, burst: 200 }
  assumeRolePerNode: { perSecond: 20, burst: 500 }
  newConnectionsPerUser: { perSecond: 2000, burst: 4000 }
  trackedConnectionsPerUser: auto
rules:
  - name: data engineers
    match: { group: [data-eng] }
    role: arn:aws:iam::842413447717:role/DataEng
    sessionName: "{user}"
    sourceIdentity: "{user}"
    tags: { team: data, job: "{slurmJobId}" }
    transitiveTagKeys: [team]
    policyArns: []
    policy: null
    externalId: null
metrics: { listen: 127.0.0.1:9254 }
stateDirectory: /var/lib/imdsproxy
log: { level: info, format: auto }
`;

describe("parseConfig()", () => {
  test("takes the documented example", () => expect(complaint(EXAMPLE)).toBeNull());
  test("fills in the documented defaults, and refuses everybody without a role", () => {
    expect(parseConfig("", "config.yaml")).toEqual({
      listen: { address: "127.0.0.1", port: 254 },
      upstream: "auto",
      region: "auto",
      sts: { endpoint: null },
      role: null,
      sessionName: "{user}@{instanceId}",
      durationSeconds: 3600,
      nameless: "refuse",
      exempt: ["root"],
      platform: "none",
      imds: { tokens: "auto", allow: [], deny: [] },
      containers: "leave",
      limits: {
        assumeRolePerUser: { perSecond: 2, burst: 200 },
        assumeRolePerNode: { perSecond: 20, burst: 500 },
        newConnectionsPerUser: { perSecond: 2_000, burst: 4_000 },
        trackedConnectionsPerUser: "auto",
      },
      rules: [],
      metrics: { listen: { address: "127.0.0.1", port: 9254 }, roles: false },
      stateDirectory: "/var/lib/imdsproxy",
      log: { level: "info", format: "auto" },
    });
  });
  test("takes limits that are switched off, and refuses those that are none", () => {
    const off = "limits: { newConnectionsPerUser: null, trackedConnectionsPerUser: null }";
    expect(parseConfig(off, "x").limits).toMatchObject({
      newConnectionsPerUser: null,
      trackedConnectionsPerUser: null,
      assumeRolePerUser: { perSecond: 2, burst: 200 },
    });
    expect(complaint("limits: { trackedConnectionsPerUser: 0 }")).toContain("trackedConnectionsPerUser");
    expect(complaint("limits: { assumeRolePerUser: { perSecond: 0, burst: 1 } }")).toContain(
      "must be 0.01 to 600",
    );
    expect(complaint("limits: { newConnectionsPerUser: { perSecond: 10 } }")).toContain("burst");
    expect(complaint("limits: { connections: 5 }")).toContain("known here: assumeRolePerUser");
  });
  test("takes part of a section, with the defaults of the rest", () => {
    expect(parseConfig("imds: { tokens: required }\nlog: { level: debug }", "x")).toMatchObject({
      imds: { tokens: "required", allow: [], deny: [] },
      log: { level: "debug", format: "auto" },
    });
  });
  test("takes one for a list, and every way to write an upstream", () => {
    const match = (text: string) =>
      parseConfig(`rules: [{ name: r, role: none, match: ${text} }]`, "x").rules[0]?.match;
    expect(match("{ user: alice, uid: 5 }")).toEqual({ user: ["alice"], uid: [{ from: 5, to: 5 }] });
    const upstream = (text: string) => parseConfig(`upstream: "${text}"`, "x").upstream;
    expect(upstream("http://169.254.0.2:9081")).toEqual({ address: "169.254.0.2", port: 9081 });
    expect(upstream("http://169.254.169.254/")).toEqual({ address: "169.254.169.254", port: 80 });
    expect(upstream("http://[fd00:ec2::254]")).toEqual({ address: "fd00:ec2::254", port: 80 });
    expect(parseConfig("metrics: null", "x").metrics).toBeNull();
  });
  test("lets flags stand over keys", () => {
    const config = parseConfig(EXAMPLE, "x", {
      listen: "127.0.0.1:99",
      stsEndpoint: "http://127.0.0.1:1",
      region: "eu-west-1",
    });
    expect(config).toMatchObject({
      listen: { port: 99 },
      sts: { endpoint: "http://127.0.0.1:1" },
      region: "eu-west-1",
    });
  });
});

describe("parseConfig() names the line, what it found and what would be right:", () => {
  const role = `role: ${ROLE}\n`;
  const rule = (more: string) => `rules:\n  - name: r\n    role: ${ROLE}\n    ${more}\n`;
  const cases: [string, string, string][] = [
    [
      "an unknown key",
      `${role}rol: x\n`,
      'config.yaml:2: rol is not a known key (found "rol"); known here: listen, upstream,',
    ],
    [
      "an unknown key of a section",
      "imds:\n  tokns: auto\n",
      'config.yaml:2: imds.tokns is not a known key (found "tokns"); known here: tokens, allow, deny',
    ],
    [
      "a group in a text of a rule that asks for none",
      rule('tags: { team: "{group}" }'),
      "config.yaml:4: rules[0].tags.team uses {group}, so its rule must match by group",
    ],
    [
      "a group in the default session name",
      'sessionName: "{group}"',
      "config.yaml:1: sessionName has the unknown placeholder {group}: known are {user},",
    ],
    [
      "a cluster that has no name",
      rule('sessionName: "{user}@{cluster}"'),
      "config.yaml:4: rules[0].sessionName uses {cluster}: set the key cluster",
    ],
    [
      "an unknown key of a match",
      rule("match: { users: [x] }"),
      'config.yaml:4: rules[0].match.users is not a known key (found "users"); known here: user, uid, group, cgroup, slurmJob',
    ],
    [
      "an unknown key where null may stand too",
      "limits: { newConnectionsPerUser: { rate: 1 } }\n",
      'limits.newConnectionsPerUser.rate is not a known key (found "rate"); known here: perSecond, burst',
    ],
    ["a key twice", `${role}${role}`, "config.yaml:2:1: Map keys must be unique"],
    ["broken YAML", "role: [\n", "config.yaml:2:1: "],
    ["no mapping", "- a\n", "config.yaml:1: must be a mapping of keys to values"],
    [
      "a port out of range",
      "listen: 127.0.0.1:0\n",
      'config.yaml:1: listen must be an IP address and a port, such as 127.0.0.1:254 or [::1]:254 (found "127.0.0.1:0")',
    ],
    [
      "the metadata address to listen on",
      "listen: 169.254.169.254:80\n",
      "config.yaml:1: listen must not be the metadata address",
    ],
    ["it in IPv6", 'listen: "[fd00:ec2::254]:80"\n', "listen must not be the metadata address"],
    [
      "an upstream that is the proxy itself",
      "listen: 127.0.0.1:253\nupstream: http://127.0.0.1:253\n",
      "config.yaml:2: upstream must not be where the proxy itself listens",
    ],
    [
      "metrics where the proxy listens",
      "metrics: { listen: 127.0.0.1:254 }\n",
      "config.yaml:1: metrics.listen must not be where the proxy listens",
    ],
    ["a name to listen on", "listen: localhost:254\n", "must be an IP address and a port"],
    ["an upstream by name", "upstream: http://metadata\n", "must be auto, or a URL of an IP address"],
    [
      "an upstream by https",
      "upstream: https://169.254.169.254\n",
      "must be auto, or a URL of an IP address",
    ],
    [
      "a role that is a name",
      "role: ImdsProxyTestRole\n",
      'config.yaml:1: role must be the ARN of an IAM role, such as arn:aws:iam::123456789012:role/NAME (found "ImdsProxyTestRole")',
    ],
    [
      "a rule's role that is empty",
      "rules:\n  - { name: r, match: { user: a }, role: null }\n",
      "config.yaml:2: rules[0].role must be the ARN of an IAM role, or none (found null)",
    ],
    ["a role that is a user", "role: arn:aws:iam::842413447717:user/x\n", "must be the ARN of an IAM role"],
    [
      "a duration that AWS caps",
      "durationSeconds: 43200\n",
      "must be 900 to 3600 seconds: AWS caps a role that was assumed from a role at one hour (found 43200)",
    ],
    ["a duration as text", 'durationSeconds: "3600"\n', 'must be a number (found "3600")'],
    [
      "a template's placeholder",
      'sessionName: "{usr}"\n',
      "has the unknown placeholder {usr}: known are {user}",
    ],
    [
      "a source identity by instance",
      rule('sourceIdentity: "{instanceId}"'),
      "config.yaml:4: rules[0].sourceIdentity has the unknown placeholder {instanceId}: known are {user}, {uid}, {region}, {slurmJobId}, {slurmUser}, {group}, {cluster}",
    ],
    [
      "a range that runs back",
      rule("match: { uid: [1999-1000] }"),
      'config.yaml:4: rules[0].match.uid[0] must be a uid or a range from low to high, such as 1000 or 1000-1999 (found "1999-1000")',
    ],
    ["the uid that is none", rule("match: { uid: [4294967295] }"), "must be a uid or a range"],
    [
      "an empty list, which could mean all or none",
      rule("match: { user: [] }"),
      "must not be empty: leave the key out to match anyone (found [])",
    ],
    ["a tag key that AWS keeps", rule("tags: { 'aws:x': y }"), "must not begin with aws:"],
    [
      "too many policies",
      rule(
        `policyArns: [${Array.from({ length: 11 }, (_, i) => `'arn:aws:iam::aws:policy/P${i}'`).join(", ")}]`,
      ),
      "must be at most 10 policies",
    ],
    ["a policy that is none", rule("policy: not json"), "must be a policy document"],
    [
      "credentials on the allow list",
      "imds: { allow: [meta-data/iam/security-credentials] }\n",
      "imds.allow[0] can never be allowed: credentials live below meta-data/iam",
    ],
    ["everything on the allow list", "imds: { allow: [meta-data] }\n", "name one category below it"],
    [
      "a state directory that depends on where it is run",
      "stateDirectory: state\n",
      'must be an absolute path (found "state")',
    ],
    ["a level that is none", "log: { level: verbose }\n", "must be debug, info, warn or error"],
    ["a number for text", "region: 5\n", "must be text (found 5)"],
    [
      "two rules of a name",
      `rules:\n  - { name: r, match: { user: a }, role: none }\n  - { name: r, match: { user: b }, role: none }\n`,
      'config.yaml:3: rules[1] has the name "r" of an earlier rule',
    ],
  ];
  for (const [name, text, expected] of cases) {
    test(name, () => expect(complaint(text)).toContain(expected));
  }
  test("every one of several problems", () => {
    const said = complaint("listen: x\nrole: y\n");
    expect(said).toContain("has 2 problems");
    expect(said).toContain("config.yaml:1: listen");
    expect(said).toContain("config.yaml:2: role");
  });
  test("the flag where a flag is wrong", () => {
    expect(complaint("", { role: "x" })).toContain(
      '--role-arn must be the ARN of an IAM role, such as arn:aws:iam::123456789012:role/NAME (found "x")',
    );
  });
  test("and not the value of an external id or a policy", () => {
    expect(complaint(rule('externalId: "hush hush"'))).not.toContain("hush");
    // Inside of a value of another shape: the dash of a list is forgotten, or there is one too many.
    for (const secret of ["externalId: hush", "policy: hush"]) {
      for (const text of [
        `rules: { name: a, role: none, ${secret} }\n`,
        `rules: [[{ ${secret} }]]\n`,
        `rules: [{ name: a, role: { ${secret} } }]\n`,
        `sts: [{ ${secret} }]\n`,
      ]) {
        expect(complaint(text)).toContain("(found ");
        expect(complaint(text)).not.toContain("hush");
      }
    }
    expect(complaint(rule('policy: "hush"'))).not.toContain("hush");
  });
});

describe("parseConfig() refuses rules that can never match:", () => {
  const rules = (...matches: string[]) =>
    `rules:\n${matches.map((match, i) => `  - { name: r${i}, match: ${match}, role: none }\n`).join("")}`;
  const never: [string, string][] = [
    ["after one that takes everyone", rules("{}", "{ user: alice }")],
    ["the same again", rules("{ user: alice }", "{ user: alice }")],
    ["a user whom a list has", rules("{ user: [alice, bob] }", "{ user: bob }")],
    ["a range within a range", rules("{ uid: [1000-1999] }", "{ uid: [1100-1200] }")],
    ["narrower by one more condition", rules("{ group: g }", "{ group: g, user: alice }")],
    ["only exempt users", rules("{ user: root }")],
    ["only root's uid", rules("{ uid: 0 }")],
  ];
  for (const [name, text] of never) test(name, () => expect(complaint(text)).toContain("can never match"));
  const possible: [string, string][] = [
    ["wider after narrower", rules("{ user: alice }", "{}")],
    ["another user", rules("{ user: alice }", "{ user: bob }")],
    ["the same user under another condition", rules("{ user: alice, slurmJob: true }", "{ user: alice }")],
    ["a range that reaches out", rules("{ uid: [1000-1999] }", "{ uid: [1500-2500] }")],
    ["root and another", rules("{ user: [root, alice] }")],
  ];
  for (const [name, text] of possible) test(`but takes ${name}`, () => expect(complaint(text)).toBeNull());
});

describe("parseConfig() holds for any text:", () => {
  test("it gives a configuration or an ImdsProxyError, and nothing else", () => {
    const keys = fc.constantFrom(
      "listen",
      "upstream",
      "role",
      "rules",
      "imds",
      "log",
      "metrics",
      "exempt",
      "sts",
      "match",
      "x",
    );
    const value = fc.letrec((tie) => ({
      any: fc.oneof(
        { maxDepth: 4 },
        fc.constant(null),
        fc.integer(),
        fc.boolean(),
        anyText(),
        fc.array(tie("any"), { maxLength: 4 }),
        fc.dictionary(fc.oneof(keys, fc.string()), tie("any"), { maxKeys: 5 }),
      ),
    })).any;
    const text = fc.oneof(
      anyText({ maxLength: 300 }),
      fc.dictionary(keys, value).map((v) => JSON.stringify(v)),
    );
    holds(
      fc.property(text, (source) => void complaint(source)),
      3_000,
    );
  }, 600_000);
  test("also where anchors, aliases, tags and directives are put together at random", () => {
    const piece = fc.constantFrom(
      ...[
        "role: ",
        "rules: ",
        "imds: ",
        "policy: ",
        "tags: ",
        "- ",
        "  - ",
        "name: x",
        "match: ",
        "  ",
        "    ",
      ],
      ...[
        "&a ",
        "*a",
        "&b ",
        "*b",
        "<<: ",
        "? ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\n",
        "\n",
        "\n",
        "|\n",
        ">-\n",
      ],
      ...[
        "!!binary ",
        "!!set ",
        "!!omap ",
        "!!timestamp ",
        "!x ",
        "%YAML 1.1\n---\n",
        "---\n",
        "...\n",
        "# x\n",
      ],
      ...[
        "__proto__: ",
        "constructor: ",
        "1: ",
        "null: ",
        "~",
        "0o17",
        ".nan",
        "-.inf",
        "2030-01-01",
        "'",
        '"',
        "\t",
      ],
      ...["user: ", "uid: ", "externalId: ", "sts: ", "endpoint: ", "listen: ", "durationSeconds: ", "x"],
    );
    holds(
      fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => void complaint(pieces.join(""))),
      20_000,
    );
  }, 600_000);
  const odd: [text: string, problem: string][] = [
    ["role: &a [*a]", "config.yaml:1: role[0] contains itself by an alias"],
    [
      "rules:\n  - name: x\n    role: none\n    policy: &p\n      Statement: [*p]\n",
      "config.yaml:5: rules[0].policy.Statement[0] contains itself by an alias",
    ],
    ["&a {rules: *a}", "config.yaml:1: rules contains itself by an alias"],
    ["role: *none", "config.yaml: has the alias *none of an anchor that is not set above it"],
  ];
  for (const [text, problem] of odd) test(problem, () => expect(complaint(text)).toBe(problem));
  test("aliases that grow without end are refused", () => {
    const lines = [
      "a: &a [x, x]",
      ...Array.from(
        { length: 9 },
        (_, i) => `b${i}: &b${i} [${i === 0 ? "*a, *a" : `*b${i - 1}, *b${i - 1}, *b${i - 1}, *b${i - 1}`}]`,
      ),
    ];
    expect(complaint(lines.join("\n"))).not.toBeNull();
  });
  test("a key that JavaScript has a meaning for is a key like any other", () => {
    expect(complaint("__proto__: { role: x }\n")).toContain("__proto__");
    expect(complaint("constructor: 1\n")).toContain("constructor is not a known key");
    expect(({} as { role?: string }).role).toBeUndefined();
  });
});

describe("loadConfig()", () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-config-"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  test("reads the file that it is told", () => {
    const path = join(directory, "config.yaml");
    writeFileSync(path, `role: ${ROLE}\n`);
    expect(loadConfig({ path }).role).toBe(ROLE);
  });
  test("does not take a file without a byte, as a full disk leaves it, for the defaults; one of comments alone has them", () => {
    const path = join(directory, "empty.yaml");
    writeFileSync(path, "");
    expect(() => loadConfig({ path })).toThrow(`the configuration ${path} is empty`);
    expect(loadConfig({ path, overrides: { role: ROLE } }).role).toBe(ROLE);
    writeFileSync(path, "# nothing yet\n");
    for (const one of [path, "/dev/null"]) expect(loadConfig({ path: one }).role).toBeNull();
  });
  test("says which file is not there", () => {
    expect(() => loadConfig({ path: join(directory, "nothing.yaml") })).toThrow("nothing.yaml: no such file");
  });
  test("does not take a directory for a file", () => {
    expect(() => loadConfig({ path: directory })).toThrow("cannot read the configuration");
  });
});
