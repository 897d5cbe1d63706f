import { describe, expect, test } from "bun:test";
import { categoryFilter } from "../../src/config/categories.ts";
import { plainText } from "../../src/observe/plain-text.ts";
import { categoryOf, outcomeOfCategory, parseRequest } from "../../src/observe/request.ts";

const bytes = (text: string) => new Uint8Array(Buffer.from(text, "latin1"));
const HEAD = "Host: 169.254.169.254\r\nUser-Agent: curl/7.88.1\r\n";

describe("parseRequest()", () => {
  test("finds the category, version 1 by the absence of a token, and the User-Agent", () => {
    expect(parseRequest(bytes(`GET /latest/meta-data/placement/region HTTP/1.1\r\n${HEAD}\r\n`))).toEqual({
      category: "meta-data/placement/region",
      imdsVersion: 1,
      userAgent: "curl/7.88.1",
    });
  });
  test("finds version 2 by the token's header in any case, also where the head goes on in another segment", () => {
    for (const header of ["X-aws-ec2-metadata-token: SECRET", "x-aws-ec2-metadata-token:SECRET"]) {
      const request = parseRequest(bytes(`GET /latest/user-data HTTP/1.1\r\n${HEAD}${header}`));
      expect(request?.imdsVersion).toBe(2);
      expect(JSON.stringify(request)).not.toContain("SECRET");
    }
  });
  test("takes the PUT of a token for version 2, and the header of its lifetime alone for none", () => {
    const ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
    expect(parseRequest(bytes(`PUT /latest/api/token HTTP/1.1\r\n${HEAD}${ttl}\r\n`))?.imdsVersion).toBe(2);
    expect(parseRequest(bytes(`GET /latest/api/token HTTP/1.1\r\n${HEAD}${ttl}\r\n`))?.imdsVersion).toBe(1);
  });
  test("does not say a version where the head ends with the segment", () => {
    expect(parseRequest(bytes(`GET /latest/meta-data/ HTTP/1.1\r\n${HEAD}`))?.imdsVersion).toBeNull();
  });
  test("is unknown where the request line is split, and null where no request begins", () => {
    expect(parseRequest(bytes("GET /latest/meta-da"))).toEqual({
      category: "unknown",
      imdsVersion: null,
      userAgent: null,
    });
    for (const text of ["", "G", "get / HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\r\n", "token=GET / "])
      expect(parseRequest(bytes(text))).toBeNull();
  });
  test("looks for headers in the head alone", () => {
    const request = parseRequest(
      bytes("POST / HTTP/1.1\r\n\r\nx-aws-ec2-metadata-token: a\r\nUser-Agent: b\r\n"),
    );
    expect(request).toEqual({ category: "(versions)", imdsVersion: 1, userAgent: null });
  });
  test("makes a User-Agent plain and short", () => {
    const hostile = "\x1b[2J\x9b31m\u00e9\tx".padEnd(500, "y");
    const agent = parseRequest(bytes(`GET / HTTP/1.1\r\nUser-Agent: ${hostile}\r\n\r\n`))?.userAgent ?? "";
    expect(agent.length).toBe(120);
    expect(agent).toMatch(/^\?\[2J\?31m\?\?xy+~$/);
  });
});

describe("categoryOf()", () => {
  const CASES: [target: string, category: string][] = [
    ["/latest/api/token", "api/token"],
    ["/latest/meta-data/iam/security-credentials/", "meta-data/iam/security-credentials"],
    ["/latest/meta-data/iam/security-credentials/SecretRole", "meta-data/iam/security-credentials"],
    ["//latest//meta-data/iam/info?x=1", "meta-data/iam/info"],
    ["/latest/meta-data/iam", "meta-data/iam"],
    [
      "/latest/meta-data/iam/security-credentials-extended/SecretRole",
      "meta-data/iam/security-credentials-extended",
    ],
    ["http://169.254.169.254/latest/user-data", "user-data"],
    ["/2021-07-15/dynamic/instance-identity/pkcs7", "dynamic/instance-identity/pkcs7"],
    ["/latest/meta-data/tags/instance/Name", "meta-data/tags/instance"],
    ["/latest/meta-data/network/interfaces/macs/0e:49:61:0f:c3:11", "meta-data/network/interfaces"],
    ["/", "(versions)"],
    ["/latest/", "(versions)"],
    ["/imdsproxy/whoami", "imdsproxy"],
    ["/latest/meta-data/../user-data", "(odd spelling)"],
    ["/favicon.ico", "(other)"],
    [`/latest/meta-data/${"x".repeat(100)}`, `meta-data/${"x".repeat(48)}~`],
  ];
  for (const [target, category] of CASES) {
    test(`${target.slice(0, 60)} is ${category.slice(0, 60)}`, () =>
      expect(categoryOf(target)).toBe(category));
  }
});

describe("outcomeOfCategory()", () => {
  const filter = categoryFilter(["user-data"], ["meta-data/tags"]);
  const CASES: [category: string, withRole: string, without: string][] = [
    ["api/token", "served", "served"],
    ["meta-data/iam/security-credentials", "served", "not found"],
    ["meta-data/iam", "served", "not found"],
    ["meta-data/iam/security-credentials-extended", "not found", "not found"],
    ["meta-data/placement/region", "served", "served"],
    ["user-data", "served", "served"],
    ["meta-data/tags/instance", "not found", "not found"],
    ["dynamic/instance-identity/pkcs7", "not found", "not found"],
    ["(odd spelling)", "refused", "refused"],
    ["(other)", "not found", "not found"],
    ["(versions)", "served", "served"],
    ["unknown", "unknown", "unknown"],
  ];
  for (const [category, withRole, without] of CASES) {
    test(`${category}: ${withRole} with a role, ${without} without`, () => {
      expect(outcomeOfCategory(category, filter, true)).toBe(withRole as never);
      expect(outcomeOfCategory(category, filter, false)).toBe(without as never);
    });
  }
});

test("plainText() leaves nothing that a terminal acts on, and cuts", () => {
  expect(plainText("a\x1b]0;x\x07\r\n\u202eb", 80)).toBe("a?]0;x????b");
  expect(plainText("abcdef", 4)).toBe("abc~");
  expect(plainText("\ud83d\ude00", 80)).toMatch(/^\?+$/);
});
