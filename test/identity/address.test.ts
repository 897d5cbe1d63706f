import { describe, expect, test } from "bun:test";
import { isIP } from "node:net";
import fc from "fast-check";
import {
  addressText,
  isLoopback,
  parseAddress,
  parseIPv4,
  parseIPv6,
  sameAddress,
  unmapped,
} from "../../src/identity/address.ts";
import { isBehindBridge } from "../../src/identity/bridges.ts";
import { parseSubordinateRanges, Shares } from "../../src/identity/shares.ts";
import { holds } from "../support/fuzz.ts";

test("isLoopback() knows 127.0.0.0/8 and ::1, and no other", () => {
  const of = (text: string) => isLoopback(parseAddress(text) ?? new Uint8Array());
  expect(["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"].map(of)).toEqual(Array(4).fill(true));
  expect(["126.0.0.1", "169.254.0.2", "::", "::2", "1::1", "fd00:ec2::254"].map(of)).toEqual(
    Array(6).fill(false),
  );
});

describe("parseAddress()", () => {
  const good: [text: string, bytes: number[]][] = [
    ["0.0.0.0", [0, 0, 0, 0]],
    ["255.255.255.255", [255, 255, 255, 255]],
    ["169.254.169.254", [169, 254, 169, 254]],
    ["::", Array(16).fill(0)],
    ["::1", [...Array(15).fill(0), 1]],
    ["fd00:ec2::254", [0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x54]],
    ["1:2:3:4:5:6:7:8", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8]],
    ["1:2:3:4:5:6:1.2.3.4", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 1, 2, 3, 4]],
    // IPv4-mapped: the IPv4 address that it is.
    ["::ffff:127.0.0.1", [127, 0, 0, 1]],
    ["::FFFF:7f00:1", [127, 0, 0, 1]],
    // IPv4-compatible and translated addresses are not.
    ["::127.0.0.1", [...Array(12).fill(0), 127, 0, 0, 1]],
    ["64:ff9b::127.0.0.1", [0, 0x64, 0xff, 0x9b, ...Array(8).fill(0), 127, 0, 0, 1]],
    ["::ffff:0:127.0.0.1", [...Array(8).fill(0), 0xff, 0xff, 0, 0, 127, 0, 0, 1]],
  ];
  for (const [text, bytes] of good) {
    test(`reads ${text}`, () => expect([...(parseAddress(text) ?? [])]).toEqual(bytes));
  }

  const bad = [
    "",
    "1",
    "1.2.3",
    "1.2.3.",
    ".1.2.3",
    "1.2.3.4.",
    "1.2.3.4.5",
    "1..3.4",
    "01.2.3.4",
    "1.2.3.04",
    "1.2.3.256",
    "1.2.3.-4",
    "1.2.3.4 ",
    " 1.2.3.4",
    "0x7f.0.0.1",
    "2130706433",
    "1.2.3.\u0664",
    ":",
    ":::",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7::8",
    "12345::",
    "g::",
    "::1.2.3",
    "1.2.3.4::",
    "::1%lo",
    "[::1]",
    "::1/128",
    ":1",
    "1:",
  ];
  for (const text of bad)
    test(`refuses ${JSON.stringify(text)}`, () => expect(parseAddress(text)).toBeNull());

  test("agrees with node:net on what an address is, for anything alike", () => {
    const part = fc.constantFrom(..."0|1|9|25|255|256|f|ffff|12345|a|:|::|.|.|.|:|%|/| |-".split("|"));
    holds(
      fc.property(fc.array(part, { maxLength: 18 }), (parts) => {
        const text = parts.join("");
        // A zone is no part of an address here.
        if (text.includes("%")) return;
        expect([text, parseIPv4(text) !== null]).toEqual([text, isIP(text) === 4]);
        if (text.includes(":")) expect([text, parseIPv6(text) !== null]).toEqual([text, isIP(text) === 6]);
      }),
      20_000,
    );
  });

  test("reads what addressText() writes", () => {
    holds(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.boolean(), (bytes, four) => {
        const address = four ? bytes.slice(0, 4) : bytes;
        expect(sameAddress(parseAddress(addressText(address)) ?? new Uint8Array(), unmapped(address))).toBe(
          true,
        );
      }),
      5_000,
    );
  });
});

describe("sameAddress()", () => {
  test("tells families and every byte apart", () => {
    expect(sameAddress(Uint8Array.of(0, 0, 0, 0), new Uint8Array(16))).toBe(false);
    for (let at = 0; at < 16; at++) {
      const other = new Uint8Array(16);
      other[at] = 1;
      expect(sameAddress(new Uint8Array(16), other)).toBe(false);
    }
  });
});

describe("isBehindBridge()", () => {
  const bytes = (text: string): Uint8Array => parseAddress(text) ?? new Uint8Array();
  const bridges = [
    { address: bytes("172.17.0.1"), prefix: 16 },
    { address: bytes("10.88.0.1"), prefix: 20 },
    { address: bytes("fd00:d0c::1"), prefix: 64 },
  ];
  for (const inside of ["172.17.0.2", "172.17.255.254", "10.88.15.255", "fd00:d0c::2"]) {
    test(`${inside} is`, () => expect(isBehindBridge(bytes(inside), bridges)).toBe(true));
  }
  for (const outside of [
    "172.17.0.1",
    "10.88.0.1",
    "172.18.0.2",
    "10.88.16.0",
    "127.0.0.1",
    "10.77.0.2",
    "fd00:d0c:0:1::2",
    "::1",
  ]) {
    test(`${outside} is not`, () => expect(isBehindBridge(bytes(outside), bridges)).toBe(false));
  }
  test("nothing is where there is no bridge", () =>
    expect(isBehindBridge(bytes("172.17.0.2"), [])).toBe(false));
});

describe("Shares.of()", () => {
  const shares = (text: string): Shares => new Shares({ read: () => text, monotonicMs: () => 0 });

  test("is the uid itself, and one for all of an owner's subordinate uids", () => {
    const found = shares("alice:100000:65536\nbob:165536:65536\nalice:300000:1\n");
    expect(
      [99_999, 100_000, 165_535, 165_536, 231_071, 231_072, 300_000, 300_001].map((uid) => found.of(uid)),
    ).toEqual([
      99_999,
      "subordinate to alice",
      "subordinate to alice",
      "subordinate to bob",
      "subordinate to bob",
      231_072,
      "subordinate to alice",
      300_001,
    ]);
  });

  test("is an owner's also beyond a narrower range of another's inside of it", () => {
    const found = shares("alice:100000:65536\nbob:110000:10\nbob:120000:10\n");
    expect(found.of(115_000)).toBe("subordinate to alice");
    expect(found.of(165_535)).toBe("subordinate to alice");
    expect(found.of(165_536)).toBe(165_536);
    expect(found.of(110_005)).toBe("subordinate to bob");
  });

  test("follows the file, a second later at the most", () => {
    let text: string | null = "alice:100000:10\n";
    let now = 0;
    const found = new Shares({ read: () => text, monotonicMs: () => now });
    expect(found.of(100_000)).toBe("subordinate to alice");
    text = "bob:100000:10\n";
    now = 999;
    expect(found.of(100_000)).toBe("subordinate to alice");
    now = 1_000;
    expect(found.of(100_000)).toBe("subordinate to bob");
    text = null;
    now = 2_000;
    expect(found.of(100_000)).toBe("subordinate to bob");
  });

  test("takes no line that is not well-formed", () => {
    const bad = ["", "#x:1:1", ":1:1", "a", "a:1", "a:-1:5", "a:1:0", "a:x:1", "a:1:x", "a:1.5:1", "a: 1:1"];
    for (const line of bad.filter((one) => !one.startsWith("#")))
      expect(parseSubordinateRanges(line)).toEqual([]);
  });
});
