import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { parseTtl, TokenMint } from "../../src/imds/tokens.ts";
import { anyText, fuzzSeed, holds, randomBytesFrom } from "../support/fuzz.ts";

const KEY = new Uint8Array(32).fill(7);
const NOW = Date.UTC(2030, 0, 1);
const ALICE = 2001;
const mint = new TokenMint(KEY);
const valid = (token: string, uid = ALICE, atMs = NOW): boolean => mint.check(token, uid, atMs).valid;

describe("parseTtl()", () => {
  for (const good of ["1", "60", "21600", "00060"]) {
    test(`takes ${good}`, () => expect(parseTtl(good)).toBe(Number(good)));
  }
  for (const bad of [
    undefined,
    "",
    "0",
    "00000",
    "21601",
    "99999",
    "-1",
    "+60",
    "60.5",
    "6e1",
    "0x3c",
    " 60",
    "60 ",
    "60, 60",
    "\u0661",
    "000060",
  ]) {
    test(`refuses ${JSON.stringify(bad)}`, () => expect(parseTtl(bad)).toBeNull());
  }
});

describe("a token", () => {
  test("is 56 characters of the base64url alphabet, and good for its whole life and no longer", () => {
    const token = mint.issue(ALICE, 60, NOW);
    expect(token).toMatch(/^[A-Za-z0-9_-]{56}$/);
    expect(mint.check(token, ALICE, NOW)).toEqual({ valid: true, remainingSeconds: 60 });
    expect(mint.check(token, ALICE, NOW + 59_999)).toEqual({ valid: true, remainingSeconds: 1 });
    expect(valid(token, ALICE, NOW + 60_000)).toBe(false);
    expect(valid(token, ALICE, NOW + 365 * 86_400_000)).toBe(false);
  });

  test("is good for another mint with the same key, as after a restart, and for none with another", () => {
    const token = mint.issue(ALICE, 60, NOW);
    expect(new TokenMint(KEY).check(token, ALICE, NOW).valid).toBe(true);
    expect(new TokenMint(new Uint8Array(32).fill(8)).check(token, ALICE, NOW).valid).toBe(false);
  });

  test("is nothing in the hands of another uid", () => {
    for (const uid of [0, 1, 2000, 2002, ALICE + 256, ALICE * 256, 65_534, 2 ** 31, 2 ** 32 - 1]) {
      expect(valid(mint.issue(ALICE, 60, NOW), uid)).toBe(false);
      expect(valid(mint.issue(uid, 60, NOW), ALICE)).toBe(false);
      expect(valid(mint.issue(uid, 60, NOW), uid)).toBe(true);
    }
  });

  test("of a container is nothing to a user, nor to another container", () => {
    const subjects = ["172.17.0.2", "172.17.0.3", "2001", "uid 2001", 2001, 172, ""];
    for (const maker of subjects) {
      const token = mint.issue(maker, 60, NOW);
      for (const user of subjects) {
        expect([maker, user, mint.check(token, user, NOW).valid]).toEqual([maker, user, maker === user]);
      }
    }
  });

  test("survives a clock that was set back by minutes, and not one that was ahead by more", () => {
    const token = mint.issue(ALICE, 21_600, NOW);
    expect(valid(token, ALICE, NOW - 300_000)).toBe(true);
    expect(valid(token, ALICE, NOW - 301_000)).toBe(false);
    expect(valid(token, ALICE, 0)).toBe(false);
  });

  test("is none any more with any bit of any byte turned", () => {
    const bytes = Buffer.from(mint.issue(ALICE, 21_600, NOW), "base64url");
    expect(bytes).toHaveLength(42);
    for (let byte = 0; byte < bytes.length; byte++) {
      for (let bit = 0; bit < 8; bit++) {
        const turned = Buffer.from(bytes);
        turned[byte] = (turned[byte] ?? 0) ^ (1 << bit);
        expect([byte, bit, valid(turned.toString("base64url"))]).toEqual([byte, bit, false]);
      }
    }
  });

  test("is none any more with any character replaced", () => {
    const token = mint.issue(ALICE, 60, NOW);
    const characters = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"];
    for (let at = 0; at < token.length; at++) {
      for (const other of characters) {
        if (other !== token[at]) expect(valid(token.slice(0, at) + other + token.slice(at + 1))).toBe(false);
      }
    }
  });

  test("is none in any other length or alphabet", () => {
    const token = mint.issue(ALICE, 60, NOW);
    for (let length = 0; length < token.length; length++) expect(valid(token.slice(0, length))).toBe(false);
    for (const other of [
      `${token}=`,
      `${token} `,
      ` ${token}`,
      `${token}\n`,
      `${token.slice(0, -1)}\n`,
      `${token}${token}`,
      `${token.slice(0, -1)}=`,
      `${token.slice(0, -1)}+`,
      `${token.slice(0, -1)}/`,
      `${token.slice(0, -1)}\0`,
      `${token.slice(0, -1)}\u0100`,
      "A".repeat(56),
      "-".repeat(56),
      "",
    ]) {
      expect([other, valid(other)]).toEqual([other, false]);
    }
  });

  test("is nothing but the bytes that its text stands for: base64's own alphabet is refused", () => {
    for (let uid = 0; uid < 200; uid++) {
      const token = mint.issue(uid, 60, NOW);
      const plain = token.replaceAll("-", "+").replaceAll("_", "/");
      if (plain !== token) expect(valid(plain, uid)).toBe(false);
    }
  });

  test("cannot be made of random bytes, nor of a good one's parts", () => {
    const random = randomBytesFrom(fuzzSeed);
    const good = Buffer.from(mint.issue(ALICE, 60, NOW), "base64url");
    const bobs = Buffer.from(mint.issue(2002, 60, NOW), "base64url");
    for (let run = 0; run < 20_000; run++) {
      expect(valid(Buffer.from(random(42)).toString("base64url"))).toBe(false);
      const cut = run % 42;
      const mixed = Buffer.concat([good.subarray(0, cut), bobs.subarray(cut)]);
      if (!mixed.equals(good)) expect(valid(mixed.toString("base64url"))).toBe(false);
    }
  });

  test("holds for any uid, TTL and time", () => {
    const uids = fc.integer({ min: 0, max: 2 ** 32 - 2 });
    const ttls = fc.integer({ min: 1, max: 21_600 });
    const times = fc.integer({ min: 0, max: 2 ** 42 });
    holds(
      fc.property(
        uids,
        uids,
        ttls,
        times,
        fc.integer({ min: 0, max: 30_000 }),
        (uid, other, ttl, atMs, later) => {
          const token = mint.issue(uid, ttl, atMs);
          const left = ttl + Math.floor(atMs / 1000) - Math.floor((atMs + later * 1000) / 1000);
          const check = mint.check(token, uid, atMs + later * 1000);
          expect(check).toEqual(left > 0 ? { valid: true, remainingSeconds: left } : { valid: false });
          if (other !== uid) expect(mint.check(token, other, atMs).valid).toBe(false);
        },
      ),
      2_000,
    );
  });

  test("throws at nothing that a header can hold", () => {
    holds(
      fc.property(anyText({ maxLength: 80 }), fc.string({ minLength: 56, maxLength: 56 }), (any, long) => {
        expect(valid(any)).toBe(false);
        expect(valid(long)).toBe(false);
      }),
      5_000,
    );
  });
});

describe("the key", () => {
  test("must have 32 bytes", () => {
    for (const length of [0, 16, 31, 33, 64]) expect(() => new TokenMint(new Uint8Array(length))).toThrow();
  });
});

describe("the check's time says nothing of the code", () => {
  const source = readFileSync(new URL("../../src/imds/tokens.ts", import.meta.url), "utf8");

  test("by construction: one timingSafeEqual over the whole code, computed before any other part is looked at", () => {
    const check = source.slice(source.indexOf("check(text"), source.indexOf("#code(token: Buffer"));
    expect(check.match(/timingSafeEqual\(/g)).toHaveLength(1);
    expect(check.indexOf("timingSafeEqual")).toBeLessThan(check.indexOf("readUIntBE"));
    // Behind the alphabet's test, which is over public facts alone, there is one return.
    expect(check.match(/return /g)).toHaveLength(2);
  });

  test("as far as it can be seen: a code that is wrong at its first byte takes as long as one wrong at its last", () => {
    const token = Buffer.from(mint.issue(ALICE, 21_600, NOW), "base64url");
    const wrongAt = (byte: number): string => {
      const wrong = Buffer.from(token);
      wrong[byte] = (wrong[byte] ?? 0) ^ 1;
      return wrong.toString("base64url");
    };
    const first = wrongAt(10);
    const last = wrongAt(41);
    const took = (text: string): number => {
      const start = performance.now();
      for (let i = 0; i < 200; i++) mint.check(text, ALICE, NOW);
      return performance.now() - start;
    };
    // The quickest batch of each, in turns, is what is compared. On a busy machine it takes more batches until each of the two
    // had an undisturbed one; a check that looked at one byte after the other would never come to the same time.
    let quickestFirst = Number.POSITIVE_INFINITY;
    let quickestLast = Number.POSITIVE_INFINITY;
    const ratio = () => quickestFirst / quickestLast;
    for (let batch = 0; batch < 30 || ((ratio() < 0.5 || ratio() > 2) && batch < 5_000); batch++) {
      quickestFirst = Math.min(quickestFirst, took(first));
      quickestLast = Math.min(quickestLast, took(last));
    }
    expect(ratio()).toBeGreaterThan(0.5);
    expect(ratio()).toBeLessThan(2);
  });
});
