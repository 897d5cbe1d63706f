import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { PLACEHOLDERS } from "../../src/rules/placeholders.ts";
import { renderName, renderTag, type TemplateValues, templateProblem } from "../../src/rules/template.ts";
import { anyText, holds } from "../support/fuzz.ts";

const values = (more: Partial<TemplateValues> = {}): TemplateValues => ({
  user: "alice",
  uid: 2001,
  container: null,
  instanceId: "i-0abc",
  slurmJobId: null,
  ...more,
});
/** STS API reference, AssumeRole: RoleSessionName and SourceIdentity. */
const SESSION_NAME = /^[\w+=,.@-]{2,64}$/;
/** The same, Tag. */
const TAG = /^[\p{L}\p{Z}\p{N}_.:/=+\-@]{0,256}$/u;

describe("renderName()", () => {
  test("puts in what the template names", () => {
    expect(renderName("{user}@{instanceId}", values())).toBe("alice@i-0abc");
    expect(renderName("{user}.{uid}.{slurmJobId}", values({ slurmJobId: "12" }))).toBe("alice.2001.12");
  });
  test("names a uid without a name by the uid, which no account can be called", () => {
    expect(renderName("{user}", values({ user: null }))).toBe("uid=2001");
  });
  test("names a container by its address", () => {
    expect(renderName("{user}", values({ user: null, uid: null, container: "172.17.0.2" }))).toBe(
      "container=172.17.0.2",
    );
  });
  test("says none of what is absent", () => {
    expect(renderName("{user}-{slurmJobId}", values())).toBe("alice-none");
  });
  test("takes nothing in a value for a placeholder", () => {
    expect(renderName("{user}@x", values({ user: "{uid}" }))).toMatch(/^_uid_@x-[0-9a-f]{16}$/);
  });
  test("keeps apart whom AWS's alphabet would make one: what was replaced or cut has a hash", () => {
    const names = ["a b", "a_b", "a/b", "a\\b", `${"x".repeat(70)}1`, `${"x".repeat(70)}2`, "é", "è"];
    const rendered = names.map((user) => renderName("{user}", values({ user })));
    expect(new Set(rendered).size).toBe(names.length);
  });
  test("is always a name that STS takes", () => {
    holds(
      fc.property(anyText({ minLength: 1, maxLength: 200 }), (user) => {
        expect(renderName("{user}", values({ user }))).toMatch(SESSION_NAME);
      }),
      2_000,
    );
  });
  test("gives nobody the name that another's replacement has, however their account is called", () => {
    holds(
      fc.property(fc.string({ minLength: 1, maxLength: 80 }), (user) => {
        const rendered = renderName("{user}", values({ user }));
        if (rendered === user) return;
        // Whoever chooses their account's name could choose this one.
        expect(renderName("{user}", values({ user: rendered }))).not.toBe(rendered);
        expect(renderTag("{user}", values({ user: rendered }))).not.toBe(rendered);
      }),
      2_000,
    );
  });
  test("keeps a name whose end only looks a little like a hash", () => {
    for (const user of [
      "alice-2030",
      "i-0123456789abcdef0",
      "a-0123456789a",
      "a-ABCDEF0123",
      "a_0123456789",
    ]) {
      expect(renderName("{user}", values({ user }))).toBe(user);
    }
  });
  test("never gives two users one name", () => {
    const user = fc.string({
      unit: fc.constantFrom("a", "b", "_", " ", "/", "é", "-", "=", "@", "0"),
      minLength: 1,
      maxLength: 80,
    });
    holds(
      fc.property(user, user, (one, other) => {
        fc.pre(one !== other);
        expect(renderName("{user}", values({ user: one }))).not.toBe(
          renderName("{user}", values({ user: other })),
        );
      }),
      5_000,
    );
  });
});

describe("two values of one placeholder", () => {
  const texts = fc.string({
    unit: fc.constantFrom("a", "b", "_", " ", "/", "é", "-", "=", "@", "0", "*"),
    minLength: 1,
    maxLength: 300,
  });
  const both = <T>(one: fc.Arbitrary<T>) => fc.tuple(one, one).filter(([a, b]) => a !== b);
  const pairs: Readonly<Record<string, fc.Arbitrary<readonly [TemplateValues, TemplateValues]>>> = {
    user: both(texts).map(([a, b]) => [values({ user: a }), values({ user: b })]),
    "user, with a name or without": fc
      .tuple(
        fc.oneof(
          texts,
          fc.nat().map((uid) => `uid=${uid}`),
        ),
        fc.nat(3_000),
      )
      .map(([user, uid]) => [values({ user }), values({ user: null, uid })]),
    "user, a process or a container": fc
      .tuple(
        fc.oneof(
          texts,
          fc.ipV4().map((address) => `container=${address}`),
        ),
        fc.ipV4(),
      )
      .map(([user, container]) => [values({ user }), values({ user: null, uid: null, container })]),
    uid: both(fc.nat()).map(([a, b]) => [values({ uid: a }), values({ uid: b })]),
    instanceId: both(texts).map(([a, b]) => [values({ instanceId: a }), values({ instanceId: b })]),
    region: both(texts).map(([a, b]) => [values({ region: a }), values({ region: b })]),
    slurmJobId: both(fc.nat().map(String)).map(([a, b]) => [
      values({ slurmJobId: a }),
      values({ slurmJobId: b }),
    ]),
    slurmUser: both(texts).map(([a, b]) => [
      values({ slurmJobId: "1", user: a }),
      values({ slurmJobId: "1", user: b }),
    ]),
    group: both(texts).map(([a, b]) => [values({ group: a }), values({ group: b })]),
    hostname: both(texts).map(([a, b]) => [values({ hostname: a }), values({ hostname: b })]),
    cluster: both(texts).map(([a, b]) => [values({ cluster: a }), values({ cluster: b })]),
  };
  test("are tried of each placeholder", () => {
    const tried = new Set(Object.keys(pairs).map((name) => name.replace(/,.*/, "")));
    expect([...tried]).toEqual(PLACEHOLDERS.map(({ name }) => name));
  });
  const around = fc.tuple(
    fc.constantFrom("", "a", "x-", "é ", "y".repeat(70)),
    fc.constantFrom("", "@", "-z", "/é", "y".repeat(70)),
  );
  for (const [name, pair] of Object.entries(pairs)) {
    test(`never make one text of it, in a name or in a tag: ${name}`, () => {
      holds(
        fc.property(pair, around, ([one, other], [before, after]) => {
          const template = `${before}{${name.replace(/,.*/, "")}}${after}`;
          expect(renderName(template, one)).not.toBe(renderName(template, other));
          expect(renderTag(template, one)).not.toBe(renderTag(template, other));
          for (const values of [one, other]) {
            expect(renderName(template, values)).toMatch(SESSION_NAME);
            expect(renderTag(template, values)).toMatch(TAG);
          }
        }),
        300,
      );
    });
  }
});

describe("renderTag()", () => {
  test("is none at all where a value that it names is absent", () => {
    for (const template of ["{slurmJobId}", "job-{slurmJobId}", "{user}/{slurmJobId}"]) {
      expect(renderTag(template, values())).toBeNull();
      expect(renderTag(template, values({ slurmJobId: "12" }))).toEndWith("12");
    }
    expect(renderTag("{uid}", values({ user: null, uid: null, container: "172.17.0.2" }))).toBeNull();
    expect(renderTag("{instanceId}", values({ instanceId: null }))).toBeNull();
    expect(renderTag("{user}", values({ user: null }))).toBe("uid=2001");
    expect(renderTag("data", values({ instanceId: null }))).toBe("data");
  });
  test("keeps the letters of any script, and replaces what AWS does not take", () => {
    expect(renderTag("{user}", values({ user: "Żółć ab" }))).toBe("Żółć ab");
    expect(renderTag("{user}", values({ user: "a*b" }))).toMatch(/^a_b-[0-9a-f]{16}$/);
  });
  test("is at most 256 characters", () => {
    expect(renderTag("{user}", values({ user: "x".repeat(300) }))).toHaveLength(256);
  });
});

describe("templateProblem()", () => {
  const cases: [string, string | null][] = [
    ["{user}@{instanceId}", null],
    ["plain", null],
    [
      "{usr}",
      "has the unknown placeholder {usr}: known are {user}, {uid}, {instanceId}, {region}, {slurmJobId}, {slurmUser}, {group}, {hostname}, {cluster}",
    ],
    ["{user", "has a brace that opens or closes no placeholder"],
    ["user}", "has a brace that opens or closes no placeholder"],
    [
      "{}",
      "has the unknown placeholder {}: known are {user}, {uid}, {instanceId}, {region}, {slurmJobId}, {slurmUser}, {group}, {hostname}, {cluster}",
    ],
    ["", "must not be empty"],
  ];
  for (const [text, problem] of cases) {
    test(`${JSON.stringify(text)}: ${problem ?? "none"}`, () => expect(templateProblem(text)).toBe(problem));
  }
});
