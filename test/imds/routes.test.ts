import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { categoryFilter, DEFAULT_CATEGORIES } from "../../src/config/categories.ts";
import { parseRoute, type Route } from "../../src/imds/routes.ts";
import { fuzzRuns, holds } from "../support/fuzz.ts";
import { readings } from "../support/stand-ins/liberal.ts";

const DEFAULTS = categoryFilter([], []);
const route = (target: string): Route => parseRoute(target, DEFAULTS);
const metadata = (path: string, listing = false, version = "latest"): Route => ({
  kind: "metadata",
  version,
  path,
  listing,
});
const SECRETS = "/latest/meta-data/iam/security-credentials";

describe("parseRoute() knows", () => {
  const rows: [target: string, expected: Route][] = [
    ["/latest/api/token", { kind: "token" }],
    ["/2021-03-23/api/token", { kind: "token-of-version" }],
    ["/1.0/api/token", { kind: "token-of-version" }],
    ["/", { kind: "versions" }],
    ["/imdsproxy/whoami", { kind: "whoami" }],
    ["/imdsproxy/health", { kind: "health" }],
    ["/latest/meta-data/iam", { kind: "iam-listing" }],
    ["/latest/meta-data/iam/info", { kind: "iam-info" }],
    [SECRETS, { kind: "role-list" }],
    [`${SECRETS}/MyRole`, { kind: "role-credentials", name: "MyRole" }],
    ["/latest", metadata("", true)],
    ["/latest/meta-data", metadata("meta-data", true)],
    ["/latest/dynamic", metadata("dynamic", true)],
    ["/latest/dynamic/instance-identity", metadata("dynamic/instance-identity", true)],
    ["/latest/dynamic/instance-identity/document", metadata("dynamic/instance-identity/document")],
    ["/latest/meta-data/placement/region", metadata("meta-data/placement/region")],
    ["/latest/meta-data/tags/instance/Team:A=b", metadata("meta-data/tags/instance/Team:A=b")],
    [
      "/latest/meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-id",
      metadata("meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-id"),
    ],
  ];
  for (const [target, expected] of rows) {
    // Lists answer with and without the slash at the end, and so do leaves (botocore asks for availability-zone/).
    for (const spelled of [
      target,
      `${target}/`,
      target.replaceAll("/", "///"),
      `${target}?a=b`,
      `${target}#x`,
    ]) {
      test(spelled, () => expect(route(spelled)).toEqual(expected));
    }
  }

  for (const version of ["latest", "1.0", "2007-01-19", "2021-03-23", "2024-04-11", "2031-12-31"]) {
    test(`the version ${version}`, () => {
      expect(route(`/${version}/meta-data/instance-id`)).toEqual(
        metadata("meta-data/instance-id", false, version),
      );
      expect(route(`/${version}/meta-data/iam/security-credentials/`)).toEqual({ kind: "role-list" });
    });
  }

  for (const category of DEFAULT_CATEGORIES) {
    test(`the category ${category}, and what is below it`, () => {
      expect(route(`/latest/${category}`)).toEqual(metadata(category));
      expect(route(`/latest/${category}/x/y`)).toEqual(metadata(`${category}/x/y`));
    });
  }

  test("an encoded path as the same as a plain one", () => {
    expect(route("/latest/%6deta-data/placement%2Fregion")).toEqual(metadata("meta-data/placement/region"));
    expect(route("/latest/meta-data/placement/%2572egion")).toEqual(metadata("meta-data/placement/region"));
  });
});

describe("parseRoute() has nothing at", () => {
  const absent = [
    "/x",
    "/latestx",
    "/LATEST/meta-data/instance-id",
    "/2021-3-23/meta-data/instance-id",
    "/1.0.0/meta-data/instance-id",
    "/1x0/meta-data/instance-id",
    "/latest/x",
    "/latest/api",
    "/latest/api/token/x",
    "/latest/api/Token",
    "/imdsproxy",
    "/imdsproxy/whoami/x",
    "/imdsproxy/health/x",
    "/latest/imdsproxy/whoami",
    "/latest/meta-data/x",
    "/latest/meta-data/placementx",
    "/latest/meta-data/profile",
    "/latest/Meta-Data/instance-id",
    "/latest/meta-data/IAM/security-credentials/MyRole",
    "/latest/meta-data/iam/x",
    "/latest/meta-data/iam/info/x",
    "/latest/meta-data/iam/Security-Credentials",
    `${SECRETS}/MyRole/x`,
    `${SECRETS}-extended`,
    `${SECRETS}-extended/MyRole`,
    "/latest/meta-data/identity-credentials",
    "/latest/meta-data/identity-credentials/ec2/info",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/user-data",
    "/latest/user-data/x",
    "/latest/dynamic/instance-identity/pkcs7",
    "/latest/dynamic/instance-identity/rsa2048",
    "/latest/dynamic/instance-identity/signature",
    "/latest/meta-data/managed-ssh-keys",
    "/latest/meta-data/managed-ssh-keys/active-keys/ec2-user",
    "/latest/meta-data/managed-ssh-keys/signer-cert",
    // Below an allowed category, the name of a secret: nobody knows how the upstream reads it.
    "/latest/meta-data/placement/user-data",
    "/latest/meta-data/tags/instance/user-data.txt",
    "/latest/meta-data/tags/instance/us+er-+data",
    "/latest/meta-data/placement/x/.htmluser-data",
    "/latest/meta-data/instance-id/x/meta-data-iam/info",
    "/latest/meta-data/tags/Security-Credentials",
    "/latest/dynamic/instance-identity/document/pkcs7",
    "/latest/dynamic/instance-identity/document/x:signature",
    "/latest/meta-data/placement/iam/security-credentials/MyRole",
    "/latest/meta-data/placement/meta-data/iam/info",
    // Characters that no metadata path has.
    "/latest/meta-data/placement/a b",
    "/latest/meta-data/placement/a'b",
    "/latest/meta-data/placement/a*b",
    "/latest/meta-data/placement/%3Cb%3E",
    "/169.254.169.254/latest/meta-data/instance-id",
    "//169.254.169.254/latest/meta-data/instance-id",
    "/http:/169.254.169.254/latest/user-data",
  ];
  for (const target of absent) test(target, () => expect(route(target)).toEqual({ kind: "not-found" }));
});

describe("parseRoute() refuses the spelling", () => {
  const hostile = [
    "",
    "latest/meta-data/",
    "*",
    "?x",
    "#x",
    "/latest/meta-data/./instance-id",
    "/latest/meta-data/../user-data",
    "/latest/meta-data/placement/../iam/security-credentials/MyRole",
    "/latest/meta-data/placement/.../x",
    "/latest/meta-data/placement/..../x",
    "/..",
    "/latest/..",
    "/latest/%2e%2e/x",
    "/latest/.%2e/x",
    "/latest/%252e%252e/x",
    "/latest/%25252525252e%25252525252e/x",
    "/latest/meta-data/placement/..%2fiam",
    "/latest/meta-data/placement/..;/iam",
    "/latest/meta-data/placement;x=1/region",
    "/latest/meta-data/iam/security-credentials;/MyRole",
    "/latest/meta-data/placement/%3b/region",
    "/latest\\meta-data\\iam",
    "/latest/%5cmeta-data",
    "/latest/meta-data/%",
    "/latest/meta-data/%2",
    "/latest/meta-data/%zz",
    "/latest/meta-data/%u0069am",
    "/latest/meta-data/%25u0069am",
    "/latest/meta-data/%c0%ae%c0%ae/iam",
    "/latest/meta-data/%e0%80%ae/iam",
    "/latest/meta-data/\xc0\xae\xc0\xae/iam",
    "/latest/meta-data/\uff49am",
    "/latest/meta-data/%ef%bd%89am",
    "/latest/meta-data/iam%00",
    "/latest/meta-data/instance-id%00/../iam",
    "/latest/meta-data/iam%0d%0aX: y",
    "/latest/meta-data/%09iam",
    "/latest/meta-data/iam%7f",
    "/latest/meta-data/\x80iam",
    "/latest/meta-data/iam%ad",
    `/latest/${"%25".repeat(9)}`,
    `/latest/%${"25".repeat(9)}2e`,
    `/latest/meta-data/tags/instance/${"a".repeat(1_000)}`,
    `/latest/meta-data/instance-id?${"a".repeat(1_000)}`,
  ];
  for (const target of hostile) {
    test(JSON.stringify(target), () => expect(route(target).kind).toBe("refused-spelling"));
  }
});

describe("parseRoute() holds:", () => {
  const SECRET_PATHS = [
    "/latest/meta-data/iam/security-credentials/MyRole",
    "/latest/meta-data/iam/security-credentials-extended/MyRole",
    "/latest/meta-data/iam/info",
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "/latest/user-data",
    "/latest/dynamic/instance-identity/pkcs7",
    "/latest/dynamic/instance-identity/rsa2048",
    "/latest/dynamic/instance-identity/signature",
    "/latest/meta-data/managed-ssh-keys/signer-cert",
  ];
  const ALLOWED_PATHS = DEFAULT_CATEGORIES.map((category) => `/latest/${category}`);
  const encode = (char: string) => `%${char.charCodeAt(0).toString(16).padStart(2, "0")}`;
  const disguises: ((char: string) => string)[] = [
    (char) => char,
    (char) => encode(char),
    (char) => encode(char).toUpperCase(),
    (char) => encode(char).replace("%", "%25"),
    (char) => encode(char).replace("%", "%2525"),
    (char) => `%u00${encode(char).slice(1)}`,
    (char) => (char === "/" ? "//" : char),
    (char) => (char === "/" ? "/./" : char),
    (char) => (char === "/" ? "/x/../" : char),
    (char) => (char === "/" ? "/..;/" : char),
    (char) => (char === "/" ? "\\" : char),
    (char) => (char === "/" ? "\xc0\xaf" : char),
    (char) => (/[a-z]/.test(char) ? String.fromCharCode(char.charCodeAt(0) + 0xfee0) : char),
    (char) => char.toUpperCase(),
    (char) => `${char}\0`,
    (char) => `${char};a=b`,
    (char) => `${char}+`,
    (char) => `+${char}`,
    (char) => `${char}=`,
    (char) => `${char}.`,
  ];
  const spelled = fc
    .tuple(
      fc.constantFrom(...SECRET_PATHS, ...ALLOWED_PATHS, "/", "/latest", "/latest/meta-data"),
      fc.constantFrom("", "/..", "/%2e%2e", "?", "#", ";", "/meta-data/placement", "/."),
      fc.constantFrom(...SECRET_PATHS, ...SECRET_PATHS.map((path) => path.replace("/latest", "")), ""),
      fc.array(fc.constantFrom(...disguises), { minLength: 120, maxLength: 120 }),
      fc.integer({ min: 0, max: 100 }),
    )
    .map(([first, between, second, ways, share]) =>
      [...`${first}${between}${second}`]
        .map((char, index) =>
          (index * 37) % 100 < share ? (ways[index % ways.length]?.(char) ?? char) : char,
        )
        .join(""),
    );
  const anything = fc.string({
    unit: fc.constantFrom(..."/.%25eEfF;\\?#aimd- \0\x80".split("")),
    maxLength: 60,
  });
  const built = (found: Route & { kind: "metadata" }): string => `/${found.version}/${found.path}`;

  test("what is asked of the upstream is plain, and parses to the same route again", () => {
    let metadataRoutes = 0;
    holds(
      fc.property(
        fc.oneof(
          spelled,
          anything.map((text) => `/latest/meta-data/placement/${text}`),
          anything,
        ),
        (target) => {
          const found = route(target);
          if (found.kind !== "metadata") return;
          metadataRoutes++;
          expect(built(found)).toMatch(/^\/(latest|1\.0|\d{4}-\d\d-\d\d)(\/[A-Za-z0-9+\-=.,_:@]+)*\/?$/);
          expect(built(found)).not.toMatch(/\/\.+(\/|$)/);
          expect(route(built(found))).toEqual(found);
        },
      ),
      20_000,
    );
    expect(metadataRoutes).toBeGreaterThan(fuzzRuns(500));
  });

  test("no reading of what is asked of the upstream is a secret's path", () => {
    const secret =
      /security-credentials|identity-credentials|user-data|pkcs7|rsa2048|signature|managed-ssh-keys|iam\//i;
    holds(
      fc.property(spelled, (target) => {
        const found = route(target);
        if (found.kind !== "metadata") return;
        for (const reading of readings([built(found)])) expect(reading).not.toMatch(secret);
      }),
      20_000,
    );
  });

  test("whoever reads the path of credentials, it is never a metadata route, whatever is allowed", () => {
    const wide = categoryFilter(["meta-data/managed-ssh-keys", "user-data", "dynamic/instance-identity"], []);
    for (const path of ["iam", "IAM", "Iam", "identity-credentials", "Identity-Credentials"]) {
      for (const rest of ["", "/x", "/security-credentials/MyRole"]) {
        expect(parseRoute(`/latest/meta-data/${path}${rest}`, wide).kind).not.toBe("metadata");
      }
    }
  });
});
