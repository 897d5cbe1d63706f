import { describe, expect, test } from "bun:test";
import { configSchema } from "../../src/config/schema.ts";
import type { Probe } from "../../src/service/probe.ts";
import { findExempt, judge } from "../../src/service/verify.ts";

const TESTER = { name: "nobody", uid: 65534, gid: 65534, groups: [] };
const AGENT = { address: "169.254.0.2", port: 9081 };
const ROOT: Probe = {
  token: 200,
  list: { status: 200, text: "Node" },
  credentials: { status: 200, code: "Success", digest: "aaaa" },
  forbidden: null,
  direct: [],
};
const USER: Probe = {
  token: 200,
  list: { status: 200, text: "Lesser" },
  credentials: { status: 200, code: "Success", digest: "bbbb" },
  forbidden: 404,
  direct: [{ endpoint: AGENT, result: "closed", detail: "connection refused" }],
};
const failed = (expected: string | null, user: Probe, root: Probe = ROOT) =>
  judge(expected, TESTER, user, root)
    .filter(({ ok }) => !ok)
    .map(({ what }) => what);

describe("judge()", () => {
  test("has nothing against the lesser role for the user and the instance role for root", () => {
    expect(failed("Lesser", USER)).toEqual([]);
  });

  const bad: readonly [string, Partial<Probe>, string][] = [
    ["another role", { list: { status: 200, text: "Node" } }, "nobody gets Lesser"],
    ["no answer", { list: { status: 0, text: "" } }, "nobody gets Lesser"],
    [
      "a denial in place of credentials",
      { credentials: { status: 200, code: "AssumeRoleUnauthorizedAccess", digest: null } },
      "nobody gets Lesser",
    ],
    [
      "the instance role's credentials under the lesser role's name",
      { credentials: { status: 200, code: "Success", digest: "aaaa" } },
      "nobody does not get the instance role's credentials",
    ],
    ["the instance role by its name", { forbidden: 200 }, "nobody cannot get Node by its name"],
    ["no answer about the instance role", { forbidden: 0 }, "nobody cannot get Node by its name"],
    [
      "an answer from the upstream itself",
      { direct: [{ endpoint: AGENT, result: "open", detail: "answers" }] },
      "nobody cannot reach 169.254.0.2:9081",
    ],
  ];
  for (const [what, user, says] of bad) {
    test(`fails where the user gets ${what}`, () => {
      expect(failed("Lesser", { ...USER, ...user })).toContain(says);
    });
  }

  test("fails where an exempt account gets what users get, or nothing", () => {
    const judged = (probe: Probe) =>
      judge("Lesser", TESTER, USER, ROOT, [{ name: "daemon", probe }])
        .filter(({ ok }) => !ok)
        .map(({ what }) => what);
    expect(judged(ROOT)).toEqual([]);
    expect(judged(USER)).toEqual(["daemon, who is exempt, keeps the instance role"]);
    expect(judged({ ...ROOT, list: { status: 0, text: "" } })).toEqual([
      "daemon, who is exempt, keeps the instance role",
    ]);
  });

  test("fails where root has lost the instance role", () => {
    const root = { ...ROOT, credentials: { status: 0, code: null, digest: null } };
    expect(failed("Lesser", USER, root)).toContain("root keeps the instance role");
  });

  test("a refusal is right where the configuration refuses, and wrong where it is an accident", () => {
    const refused: Probe = {
      ...USER,
      list: { status: 404, text: "" },
      credentials: { status: 0, code: null, digest: null },
    };
    expect(failed(null, refused)).toEqual([]);
    expect(failed(null, USER)).toEqual(["nobody is refused, as the configuration says"]);
    expect(failed(null, { ...refused, list: { status: 0, text: "" } })).not.toEqual([]);
  });

  describe("on a node whose metadata address systemd has locked", () => {
    const NONE: Probe = {
      ...ROOT,
      token: 0,
      list: { status: 0, text: "" },
      credentials: { status: 0, code: null, digest: null },
    };
    const bad = (root: Probe, user: Probe, locked: Probe, daemon: Probe = NONE) =>
      judge("Lesser", TESTER, user, root, [{ name: "daemon", probe: daemon }], locked)
        .filter(({ ok }) => !ok)
        .map(({ what }) => what);

    test("root and exempt accounts have no way, and that is as it should be", () => {
      expect(bad(NONE, USER, ROOT)).toEqual([]);
    });
    test("one that has a way, an upstream without a role and a user with the instance role's credentials are found", () => {
      expect(bad(ROOT, USER, ROOT)).toEqual([
        "root has no way to the metadata address, as systemd.imds.network=locked says",
      ]);
      expect(bad(NONE, USER, ROOT, ROOT)).toEqual([
        "daemon has no way to the metadata address, as systemd.imds.network=locked says",
      ]);
      expect(bad(NONE, USER, NONE)).toEqual(["the upstream has the instance role"]);
      const thief = { ...USER, credentials: { ...USER.credentials, digest: "aaaa" }, forbidden: 200 };
      expect(bad(NONE, thief, ROOT)).toEqual([
        "nobody does not get the instance role's credentials",
        "nobody cannot get Node by its name",
      ]);
    });
  });
});

test("findExempt() has the exempt accounts of the node and the uids that are exempt by their number, and not root", async () => {
  const found = async (...exempt: string[]) =>
    (await findExempt(configSchema.parse({ exempt }), [])).map(({ name, uid }) => [name, uid]);
  expect(await found("root", "0", "4000010001", "nobody")).toEqual([
    ["nobody", 65534],
    ["uid 4000010001", 4000010001],
  ]);
  expect(await found("root", "no-such-account-here")).toEqual([]);
});
