import { describe, expect, test } from "bun:test";
import { type Disturbed, Invariants, type Try } from "../../scripts/soak/invariants.ts";
import { soakPlot } from "../../scripts/soak/plot.ts";

const NOW = Date.UTC(2030, 0, 1);
const MINUTE = 60_000;
const ROLES = ["Users"];
const NOTHING: Disturbed = { connections: [], upstream: [], sessions: [] };

const success = (key: string, at = NOW, different: Partial<Try> = {}): Try => ({
  ...{ at, step: "credentials", status: 200, role: "Users", code: "Success", key, leaked: false },
  ...{ ends: new Date(NOW + 5 * MINUTE).toISOString() },
  ...different,
});
const failure = (at: number): Try => ({ at, step: "credentials", status: 503, leaked: false });

describe("the soak finds", () => {
  test("nothing where everybody gets their own", () => {
    const invariants = new Invariants();
    expect(invariants.check("ann", success("A"), ROLES, NOTHING)).toBeNull();
    expect(invariants.check("bob", success("B"), ROLES, NOTHING)).toBeNull();
    expect(invariants.check("ann", success("A"), ROLES, NOTHING)).toBeNull();
    expect(invariants.check("root", success("R", NOW, { leaked: true }), ROLES, NOTHING)).toBeNull();
  });
  test("a secret of the node's role, also in an answer that is none", () => {
    const invariants = new Invariants();
    expect(invariants.check("ann", success("A", NOW, { leaked: true }), ROLES, NOTHING)).toContain("node's");
    expect(invariants.check("ann", { ...failure(NOW), leaked: true }, ROLES, NOTHING)).toContain("node's");
  });
  test("somebody else's session, a role that no rule gives, and a session that is over", () => {
    const invariants = new Invariants();
    invariants.check("ann", success("A"), ROLES, NOTHING);
    expect(invariants.check("bob", success("A"), ROLES, NOTHING)).toContain("of ann");
    expect(invariants.check("bob", success("B", NOW, { role: "Node" }), ROLES, NOTHING)).toContain("Node");
    expect(invariants.check("bob", success("C", NOW + 6 * MINUTE), ROLES, NOTHING)).toContain("ended");
  });
  test("one who has a session and is refused, unless the proxy began anew, or they never had one", () => {
    const invariants = new Invariants();
    expect(invariants.check("ann", failure(NOW), ROLES, NOTHING)).toBeNull();
    invariants.check("ann", success("A"), ROLES, NOTHING);
    expect(invariants.check("ann", failure(NOW + MINUTE), ROLES, NOTHING)).toContain("not served");
    const sessions = [{ fromMs: NOW + MINUTE, toMs: NOW + MINUTE }];
    expect(invariants.check("ann", failure(NOW + MINUTE), ROLES, { ...NOTHING, sessions })).toBeNull();
    expect(invariants.check("ann", failure(NOW + 5 * MINUTE), ROLES, NOTHING)).toBeNull();
  });
  test("root refused, unless the node's own service is away; and root with a user's role", () => {
    const invariants = new Invariants();
    expect(invariants.check("root", failure(NOW), ROLES, NOTHING)).toContain("root is refused");
    const upstream = [{ fromMs: NOW - MINUTE, toMs: null }];
    expect(invariants.check("root", failure(NOW), ROLES, { ...NOTHING, upstream })).toBeNull();
    expect(invariants.check("root", success("A"), ROLES, NOTHING)).toContain("another role");
  });
});

test("a sample that is no number leaves the scale of the others as it is", () => {
  const [whole, broken] = [
    [1, null, 3, 2],
    [1, Number.NaN, 3, 2],
  ].map((values) => soakPlot([{ title: "memory", values }], [0, 5, 30, 60], [15]));
  expect(whole).toContain(">3.00<");
  expect(broken).toBe(whole ?? "");
});

test("the plot leaves out what was not measured, and marks where the proxy began anew, each at its time", () => {
  const svg = soakPlot([{ title: "memory", values: [1, null, 3, 2] }], [0, 5, 30, 60], [15]);
  const points = /points="([^"]*)"/
    .exec(svg)?.[1]
    ?.split(" ")
    .map((one) => Number(one.split(",")[0]));
  const mark = Number(/<line x1="([\d.]+)"[^>]*stroke="#dddddd"/.exec(svg)?.[1]);
  const [first = 0, second = 0, last = 0, ...more] = points ?? [];
  expect(more).toEqual([]);
  expect((second - first) / (last - first)).toBeCloseTo(0.5, 2);
  expect((mark - first) / (last - first)).toBeCloseTo(0.25, 2);
  expect(svg).toContain(">60 min<");
});
