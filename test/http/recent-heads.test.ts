import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { RecentHeads } from "../../src/http/recent-heads.ts";
import { parseRequest } from "../../src/http/request.ts";
import { holds } from "../support/fuzz.ts";

const HEAD = "GET /latest/ HTTP/1.1\r\nHost: a";

describe("RecentHeads", () => {
  test("gives the same request for the same bytes, and another for any others", () => {
    const heads = new RecentHeads();
    const first = heads.parse(HEAD);
    expect(heads.parse(HEAD)).toBe(first);
    for (const other of [`${HEAD}b`, `${HEAD} `, HEAD.replace("GET", "PUT"), HEAD.replace("Host", "host")]) {
      expect(heads.parse(other)).not.toBe(first);
      expect(heads.parse(other)).toEqual(parseRequest(other));
    }
  });

  test("keeps neither what is refused nor what is long", () => {
    const heads = new RecentHeads();
    const long = `${HEAD}\r\nX: ${"x".repeat(1_024)}`;
    for (const head of [long, "GET", `${HEAD}\r\nExpect: 100-continue`]) {
      expect(heads.parse(head)).not.toBe(heads.parse(head));
      expect(heads.parse(head)).toEqual(parseRequest(head));
    }
  });

  test("keeps 256, and forgets the oldest first", () => {
    const heads = new RecentHeads();
    const numbered = (n: number) => `${HEAD}\r\nX: ${n}`;
    const first = heads.parse(numbered(0));
    const second = heads.parse(numbered(1));
    for (let n = 2; n < 256; n++) heads.parse(numbered(n));
    expect(heads.parse(numbered(0))).toBe(first);
    heads.parse(numbered(256));
    expect(heads.parse(numbered(1))).toBe(second);
    expect(heads.parse(numbered(0))).not.toBe(first);
  });

  test("never differs from the parser, in whatever order heads come", () => {
    const part = fc.constantFrom("GET / HTTP/1.1", "PUT / HTTP/1.0", "Host: a", "Host:a", "X: \xe9", "X", "");
    holds(
      fc.property(
        fc.array(
          fc.array(part, { maxLength: 4 }).map((parts) => parts.join("\r\n")),
          { maxLength: 40 },
        ),
        (sent) => {
          const heads = new RecentHeads();
          for (const head of sent) expect(heads.parse(head)).toEqual(parseRequest(head));
        },
      ),
      1_000,
    );
  });
});
