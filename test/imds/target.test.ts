import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { isAuthority, knownAuthorities, originForm } from "../../src/imds/target.ts";
import { anyText, holds } from "../support/fuzz.ts";

const AUTHORITIES = knownAuthorities([
  { address: "127.0.0.1", port: 254 },
  { address: "::1", port: 254 },
  { address: "169.254.0.2", port: 9081 },
]);

describe("knownAuthorities() has", () => {
  const known = [
    "169.254.169.254",
    "169.254.169.254:80",
    "[fd00:ec2::254]",
    "[fd00:ec2::254]:80",
    "instance-data",
    "instance-data.ec2.internal",
    "127.0.0.1",
    "127.0.0.1:254",
    "localhost:254",
    "[::1]:254",
    "169.254.0.2:9081",
  ];
  for (const name of known) test(name, () => expect(AUTHORITIES.has(name)).toBe(true));
});

describe("knownAuthorities() has not", () => {
  const unknown = [
    "",
    "localhost",
    "169.254.169.254:81",
    "169.254.169.254:",
    "169.254.169.254:080",
    "169.254.169.254.",
    "169.254.169.254@rebound.example",
    "rebound.example",
    "rebound.example:80",
    "169.254.169.254.rebound.example",
    "rebound.example@169.254.169.254",
    "169.254.169.254, rebound.example",
    "2852039166",
    "0xa9fea9fe",
    "169.254.43518",
    "fd00:ec2::254",
    "[fd00:0ec2::254]",
    "[::ffff:169.254.169.254]",
    "metadata.google.internal",
  ];
  for (const name of unknown) test(JSON.stringify(name), () => expect(AUTHORITIES.has(name)).toBe(false));
});

describe("originForm()", () => {
  const cases: [target: string, path: string | null][] = [
    ["/latest/", "/latest/"],
    ["/", "/"],
    ["//evil/latest", "//evil/latest"],
    ["/?x", "/?x"],
    ["http://169.254.169.254/latest/?x#y", "/latest/?x#y"],
    ["HTTP://169.254.169.254:80/latest", "/latest"],
    ["http://INSTANCE-DATA.EC2.internal/latest", "/latest"],
    ["http://169.254.169.254", "/"],
    ["http://[fd00:ec2::254]/x", "/x"],
    ["http://169.254.169.254?x", null],
    ["http://169.254.169.254#x", null],
    ["http:///latest", null],
    ["http:/latest", null],
    ["http:latest", null],
    ["https://169.254.169.254/latest", null],
    ["ftp://169.254.169.254/latest", null],
    ["http://user@169.254.169.254/latest", null],
    ["http://169.254.169.254@evil.example/latest", null],
    ["http://evil.example/latest", null],
    ["http://169.254.169.254:8080/latest", null],
    ["http://169.254.169.254\\@evil.example/latest", null],
    ["169.254.169.254:80", null],
    ["*", null],
    ["latest/", null],
    ["?x", null],
    ["", null],
    ["\\latest", null],
  ];
  for (const [target, path] of cases) {
    test(`${JSON.stringify(target)} is ${JSON.stringify(path)}`, () =>
      expect(originForm(target, AUTHORITIES)).toBe(path));
  }

  test("is a path or nothing, whatever the target", () => {
    const parts = fc.constantFrom(
      ..."http://|169.254.169.254|/|:|80|@|\\|?|#|x|evil|[|]|HTTP://|%2f|//".split("|"),
    );
    holds(
      fc.property(fc.array(parts, { maxLength: 12 }), (pieces) => {
        const path = originForm(pieces.join(""), AUTHORITIES);
        if (path !== null) expect(path).toStartWith("/");
      }),
      5_000,
    );
  });
});

describe("isAuthority()", () => {
  test("takes an IPv6 address in any spelling, with its port and without", () => {
    for (const name of [
      "[FD00:EC2::254]",
      "[fd00:ec2:0:0:0:0:0:254]",
      "[fd00:0ec2::0254]:80",
      "[0:0:0:0:0:0:0:1]:254",
    ])
      expect([name, isAuthority(name, AUTHORITIES)]).toEqual([name, true]);
  });
  test("and nothing that is another address, another port, or no address", () => {
    const others = [
      ...[
        "[fd00:ec2::255]",
        "[fd00:ec2::254]:81",
        "[fd00:ec2::254]:080",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254%25lo]",
      ],
      ...[
        "[fd00:ec2::254",
        "fd00:ec2::254",
        "[fd00:ec2::254].rebound.example",
        "[rebound.example]",
        "[]",
        "[:]:80",
        "0251.254.169.254",
      ],
    ];
    for (const name of others) expect([name, isAuthority(name, AUTHORITIES)]).toEqual([name, false]);
  });
  test("never throws", () => {
    holds(
      fc.property(anyText(), (text) => {
        isAuthority(`[${text}]`, AUTHORITIES);
        isAuthority(text, AUTHORITIES);
      }),
      2_000,
    );
  });
});
