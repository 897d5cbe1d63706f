import { describe, expect, test } from "bun:test";
import { documentOf, ownStatus } from "../../src/cli/status.ts";
import { nodeLines, ownLines } from "../../src/cli/status-text.ts";
import { ImdsProxyError } from "../../src/errors.ts";
import type { Whoami } from "../../src/imds/whoami.ts";
import type { NodeStatus } from "../../src/service/node-status.ts";
import type { StatusUser, UserStatus } from "../../src/telemetry/status-document.ts";

const nowMs = Date.UTC(2030, 0, 1, 12);
const at = (ms: number) => new Date(nowMs + ms).toISOString();
const MIN = 60_000;
const ROLE = "arn:aws:iam::123456789012:role/path/Data";
const user = (over: Partial<StatusUser> = {}): StatusUser => ({
  user: "alice",
  uid: 2001,
  container: null,
  first: at(-60 * MIN),
  last: at(-2 * MIN),
  requests: 12,
  v1: 3,
  v2: 9,
  outcome: "credentials",
  role: ROLE,
  why: null,
  ...over,
});
const NODE: NodeStatus = {
  healthy: false,
  summary: `NOT healthy: ${ROLE} cannot be assumed (AccessDenied); and 1 more, below`,
  setupPid: null,
  setupCommand: null,
  troubles: [
    {
      id: "sts",
      what: "denied",
      since: at(-5 * MIN),
      remedy: 'change the policy:\n{\n  "Effect": "Allow"\n}',
    },
    { id: "clock", what: "the clock is wrong", since: null, remedy: null },
  ],
  proxy: { running: true, version: "1.2.3", started: at(-192 * MIN), listen: ["127.0.0.1:254", "[::1]:254"] },
  installed: {
    version: "imdsproxy 1.2.3 (0123456789ab)",
    units: [
      { name: "imdsproxy.service", enabled: "enabled", active: "active" },
      { name: "imdsproxy-iptables.service", enabled: "enabled", active: "active" },
    ],
  },
  upstream: { url: "http://169.254.0.2:9081", reason: "something listens at 169.254.0.2:9081" },
  rules: { inPlace: true, differences: [] },
  dropped: {
    new_user: 12,
    new_everyone: 0,
    tracked_user: 0,
    tracked_everyone: 3,
    source_routed: 0,
    unredirected: 0,
  },
  configuration: {
    object: null,
    path: "/etc/imdsproxy/config.yaml",
    current: false,
    rules: 2,
    defaultRole: ROLE,
    lastReload: { at: at(-7 * MIN), problem: "line 3" },
  },
  sessions: { rows: [{ role: ROLE, sessions: 3, firstEnd: at(43 * MIN), denied: 1, failing: 0 }], more: 2 },
  users: {
    rows: [
      user(),
      user({
        user: null,
        uid: 3000,
        v1: 0,
        outcome: "refused",
        role: null,
        why: 'rule "guests" gives no role',
      }),
      user({ uid: null, user: null, container: "172.17.0.2", v2: 0, outcome: "denied" }),
      user({ user: "bob", outcome: "unavailable", why: "NSS" }),
      user({ user: "carol", outcome: "metadata", role: null }),
    ],
    more: 0,
  },
  errors: {
    rows: [{ what: "STS throttles", count: 7, first: at(-9 * MIN), last: at(-1 * MIN), remedy: "wait" }],
    more: 0,
  },
  notes: ["a note"],
};
const textOf = (lines: readonly { text: string }[]) => lines.map(({ text }) => text).join("\n");

describe("nodeLines()", () => {
  test("is one screen, with times as people say them", () => {
    expect(textOf(nodeLines(NODE, { nowMs, width: 80 }))).toBe(
      `NOT healthy: arn:aws:iam::123456789012:role/path/Data cannot be assumed
(AccessDenied); and 1 more, below
  since 5 min ago (2030-01-01T11:55:00.000Z)
  to do: change the policy:
  {
    "Effect": "Allow"
  }
PROBLEM the clock is wrong

proxy       version 1.2.3, up for 3 h 12 min, listens at 127.0.0.1:254 and
            [::1]:254
upstream    http://169.254.0.2:9081 (something listens at 169.254.0.2:9081)
rules       in place
limits      packets dropped since the rules came: new connections of one user
            12, tracked connections of all users together 3
units       installed: imdsproxy 1.2.3 (0123456789ab)
            imdsproxy.service enabled, active
            imdsproxy-iptables.service enabled, active
config      /etc/imdsproxy/config.yaml: 2 rules, default role Data; the file
            differs from what runs; reloaded 7 min ago, and refused: line 3
sessions
  ENDS FIRST  VALID  DENIED  FAILING  ROLE
  in 43 min   3      1       0        Data
  and 2 more roles
users of the last four hours
  USER                  LAST       IMDS           REQUESTS  LAST OUTCOME
  alice                 2 min ago  v1 (25 %), v2  12        credentials of Data
  uid 3000              2 min ago  v2             12        refused: rule
                                                            "guests" gives no
                                                            role
  container 172.17.0.2  2 min ago  v1             12        none of Data: STS
                                                            denies it
  bob                   2 min ago  v1 (25 %), v2  12        none of Data for
                                                            now: NSS
  carol                 2 min ago  v1 (25 %), v2  12        metadata; no role
                                                            was asked for
errors of the last four hours
  7 times, last 1 min ago: STS throttles
    to do: wait
note: a note`,
    );
  });

  test("fits 80 columns, but for what has no space in it", () => {
    for (const { text } of nodeLines(NODE, { nowMs, width: 80 })) expect(text.length).toBeLessThanOrEqual(80);
  });

  test("has no line of what the limits dropped where that is nothing, or not known", () => {
    const nothing = Object.fromEntries(Object.keys(NODE.dropped ?? {}).map((kind) => [kind, 0]));
    for (const dropped of [null, nothing as NodeStatus["dropped"]])
      expect(textOf(nodeLines({ ...NODE, dropped }, { nowMs, width: 80 }))).not.toMatch(/^limits/m);
  });

  test("leaves the first line whole where the output is no terminal", () => {
    expect(nodeLines(NODE, { nowMs, width: null })[0]?.text).toBe(NODE.summary);
  });

  test("shows five differences of the rules, and where the others are", () => {
    const differences = Array.from({ length: 46 }, (_, i) => `difference ${i}`);
    const text = textOf(nodeLines({ ...NODE, rules: { inPlace: false, differences } }, { nowMs, width: 80 }));
    expect(text).toContain("difference 4\n            and 41 more: sudo imdsproxy iptables status");
    expect(text).not.toContain("difference 5");
  });

  test("says of a proxy that does not run what can be said", () => {
    const down: NodeStatus = {
      ...NODE,
      proxy: { running: false, why: "the proxy is not running" },
      installed: null,
      configuration: null,
      sessions: null,
      users: null,
      errors: null,
      rules: { inPlace: null, differences: [] },
    };
    const text = textOf(nodeLines(down, { nowMs, width: 80 }));
    expect(text).toContain("proxy       NOT running: the proxy is not running");
    expect(text).toContain("units       not installed");
    expect(text).toContain("rules       cannot be compared");
  });

  test("shows nothing that a terminal could take for a command", () => {
    const hostile = "\u001b]0;owned\u0007\u009b2J\u202e\n";
    const found: NodeStatus = {
      ...NODE,
      summary: hostile,
      troubles: [{ id: "x", what: hostile, since: null, remedy: hostile }],
      users: { rows: [user({ user: hostile, why: hostile, outcome: "refused" })], more: 0 },
      errors: { rows: [{ what: hostile, count: 1, first: at(0), last: at(0), remedy: hostile }], more: 0 },
      notes: [hostile],
    };
    const text = textOf(nodeLines(found, { nowMs, width: 80 }));
    expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e]/);
  });
});

const WHOAMI: Whoami = {
  user: "alice",
  uid: 2001,
  container: null,
  subordinate: false,
  groups: [],
  slurmJobId: null,
  rule: null,
  reason: "no rule matched: the default role",
  role: ROLE,
  roleName: "Data",
  sessionName: "alice",
  sessionEnds: at(43 * MIN),
  lastError: null,
};
const OWN: UserStatus = {
  for: "user",
  uid: 2001,
  version: "1.2.3",
  started: at(-MIN),
  sessions: { rows: [{ role: ROLE, sessions: 1, firstEnd: at(43 * MIN), denied: 0, failing: 0 }], more: 0 },
  users: { rows: [user()], more: 0 },
};

describe("what a user sees of themselves", () => {
  test("is healthy where they have a role", () => {
    const found = ownStatus(OWN, WHOAMI);
    expect([found.healthy, found.summary]).toEqual([true, `healthy: you get ${ROLE}`]);
    const text = textOf(ownLines(found, { nowMs, width: 80 }));
    expect(text).toContain("session     ends in 43 min");
    expect(text).toContain("requests    12 in the last four hours, by IMDS v1 (25 %), v2, the last 2 min");
  });
  test("is their refusal, or their last error, in the first line", () => {
    const refused = ownStatus(OWN, { ...WHOAMI, role: null, reason: 'rule "x" gives no role' });
    expect(refused.summary).toBe('NOT healthy: you get no role: rule "x" gives no role');
    const lastError = { message: "STS is away", since: at(0), remedy: "wait" };
    expect(ownStatus(OWN, { ...WHOAMI, lastError }).summary).toBe("NOT healthy: STS is away");
  });
  test("is why nothing answers", () => {
    const found = ownStatus(null, new ImdsProxyError("unhealthy", "nothing answers", "look"));
    expect(found).toMatchObject({ healthy: false, summary: "NOT healthy: nothing answers", you: null });
    expect(textOf(ownLines(found, { nowMs, width: 80 }))).toContain("proxy       does not answer");
  });
});

describe("documentOf() takes what this version knows, and nothing else:", () => {
  test("a user's document", () => expect(documentOf(JSON.stringify(OWN))).toEqual(OWN));
  for (const [name, text] of [
    ["no JSON", "{"],
    ["null", "null"],
    ["another version's", JSON.stringify({ ...OWN, users: [] })],
    ["root's without its lists", JSON.stringify({ ...OWN, for: "root" })],
    ["one for nobody", JSON.stringify({ ...OWN, for: "nobody" })],
  ] as const) {
    test(name, () => expect(documentOf(text)).toBeNull());
  }
});
