import { describe, expect, test } from "bun:test";
import { categoryFilter, categoryProblem, DEFAULT_CATEGORIES } from "../../src/config/categories.ts";

describe("categoryFilter()", () => {
  const defaults = categoryFilter([], []);

  test("allows a category and what is below it, and nothing that only begins alike", () => {
    expect(defaults.allows("meta-data/placement")).toBe(true);
    expect(defaults.allows("meta-data/placement/region")).toBe(true);
    expect(defaults.allows("meta-data/placements")).toBe(false);
    expect(defaults.allows("meta-data")).toBe(false);
    expect(defaults.allows("")).toBe(false);
  });

  test("refuses a category that nobody has listed", () => {
    expect(defaults.allows("meta-data/new-in-2031")).toBe(false);
  });

  test("leads to what is listed, and hides what is not", () => {
    expect(defaults.leadsTo("dynamic/instance-identity")).toBe(true);
    expect(defaults.leadsTo("dynamic/instance-identity/pkcs7")).toBe(false);
    expect(defaults.leadsTo("user-data")).toBe(false);
    expect(defaults.leadsTo("meta-data/iam")).toBe(false);
  });

  test("opens by imds.allow what is named there, and nothing beside it", () => {
    const filter = categoryFilter(["user-data", "dynamic/instance-identity/pkcs7"], []);
    expect(filter.allows("user-data")).toBe(true);
    expect(filter.allows("dynamic/instance-identity/pkcs7")).toBe(true);
    expect(filter.allows("dynamic/instance-identity/rsa2048")).toBe(false);
    expect(filter.leadsTo("user-data")).toBe(true);
  });

  test("does not open by a whole directory the secrets in it that are not named", () => {
    const filter = categoryFilter(["dynamic/instance-identity"], []);
    expect(filter.allows("dynamic/instance-identity/document")).toBe(true);
    for (const secret of ["pkcs7", "rsa2048", "signature"]) {
      expect(filter.allows(`dynamic/instance-identity/${secret}`)).toBe(false);
    }
  });

  test("deny wins over allow, whichever is the longer", () => {
    const filter = categoryFilter(["meta-data/tags/instance/Name"], ["meta-data/tags"]);
    expect(filter.allows("meta-data/tags/instance/Name")).toBe(false);
    const inner = categoryFilter([], ["meta-data/tags/instance/Secret"]);
    expect(inner.allows("meta-data/tags/instance/Name")).toBe(true);
    expect(inner.allows("meta-data/tags/instance/Secret")).toBe(false);
    expect(inner.allows("meta-data/tags/instance/Secret/x")).toBe(false);
    expect(inner.hides("meta-data/tags/instance")).toBe(true);
    expect(inner.hides("meta-data/placement")).toBe(false);
  });

  test("deny is no matter of case: nobody knows whether it is one to the upstream", () => {
    const filter = categoryFilter([], ["meta-data/tags/instance/Secret"]);
    expect(filter.allows("meta-data/tags/instance/SECRET")).toBe(false);
    expect(filter.hides("meta-data/tags/INSTANCE")).toBe(true);
  });

  test("nothing opens the paths of credentials", () => {
    const filter = categoryFilter(
      ["meta-data/iam", "meta-data/IAM", "meta-data/identity-credentials", "api"],
      [],
    );
    for (const path of [
      "meta-data/iam",
      "meta-data/iam/info",
      "meta-data/IAM/x",
      "meta-data/identity-credentials",
      "api/token",
    ]) {
      expect(filter.allows(path)).toBe(false);
      expect(filter.leadsTo(path)).toBe(false);
    }
  });

  test("no default category is a secret's", () => {
    for (const category of DEFAULT_CATEGORIES) {
      expect(category).not.toMatch(/iam|credentials|user-data|pkcs7|rsa2048|signature|ssh/);
      expect(categoryProblem(category)).toBeNull();
      expect(defaults.allows(category)).toBe(true);
    }
  });
});

describe("categoryProblem()", () => {
  for (const good of [
    "user-data",
    "dynamic/fws",
    "meta-data/tags",
    "meta-data/managed-ssh-keys/signer-cert",
  ]) {
    test(`takes ${good}`, () => expect(categoryProblem(good)).toBeNull());
  }
  const bad: [text: string, problem: RegExp][] = [
    ["", /^must be a metadata path/],
    ["tags", /^must be a metadata path/],
    ["/meta-data/tags", /^must be a metadata path/],
    ["meta-data/tags/", /^must be a metadata path/],
    ["meta-data//tags", /^must be a metadata path/],
    ["latest/meta-data/tags", /^must be a metadata path/],
    ["meta-data/../user-data", /^must be a metadata path/],
    ["meta-data/.../x", /^must be a metadata path/],
    ["meta-data/a b", /^must be a metadata path/],
    ["meta-data/%69am", /^must be a metadata path/],
    ["meta-data/*", /^must be a metadata path/],
    ["meta-data", /^is all of meta-data/],
    ["dynamic", /^is all of dynamic/],
    ["meta-data/iam", /^can never be allowed: credentials live below meta-data\/iam$/],
    ["meta-data/iam/info", /^can never be allowed/],
    ["meta-data/IAM/security-credentials", /^can never be allowed/],
    ["meta-data/identity-credentials/ec2", /^can never be allowed/],
  ];
  for (const [text, problem] of bad) {
    test(`refuses ${JSON.stringify(text)}`, () => expect(categoryProblem(text) ?? "").toMatch(problem));
  }
});
