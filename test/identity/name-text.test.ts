import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { nameBytes, nameText } from "../../src/identity/name-text.ts";
import { renderName, renderTag } from "../../src/rules/template.ts";
import { holds } from "../support/fuzz.ts";

const bytes = (text: string) => Buffer.from(text, "latin1");

/** Bytes as directories have them: ASCII, UTF-8, a byte order mark, Latin-1, and anything. */
const name = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 12 }),
  fc
    .array(
      fc.constantFrom(
        "a",
        "=",
        "uid=",
        "user:",
        "\\",
        "xff",
        "\xef\xbb\xbf",
        "\xff",
        "\xc3",
        "\xa9",
        "\xed\xb2\x80",
        "-",
      ),
      { minLength: 1, maxLength: 6 },
    )
    .map((parts) => new Uint8Array(bytes(parts.join("")))),
);
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

describe("nameText()", () => {
  test("leaves UTF-8 as it is", () => {
    expect(nameText(Buffer.from("alice"))).toBe("alice");
    expect(nameText(Buffer.from("CORP\\żółć"))).toBe("CORP\\żółć");
  });
  test("takes no byte order mark away: such a name is not alice's", () => {
    expect(nameText(Buffer.from("\ufeffalice"))).toBe("\ufeffalice");
  });
  test("makes of bytes that are no UTF-8 what no UTF-8 is", () => {
    expect(nameText(bytes("a\xff"))).toBe("a\udcff");
    // A surrogate that is written as if it were UTF-8 is no UTF-8 either.
    expect(nameText(bytes("\xed\xb2\x80")).isWellFormed()).toBe(false);
  });
  test("is undone by nameBytes()", () => {
    holds(
      fc.property(name, (one) => {
        expect(same(nameBytes(nameText(one)), one)).toBe(true);
      }),
      5_000,
    );
  });
  test("two names are one text, one session name, one tag, only if they are the same bytes", () => {
    holds(
      fc.property(name, name, (one, other) => {
        fc.pre(!same(one, other));
        const [a, b] = [nameText(one), nameText(other)];
        expect(a).not.toBe(b);
        const as = (user: string) => ({ user, uid: 1, container: null, instanceId: null, slurmJobId: null });
        expect(renderName("{user}@x", as(a))).not.toBe(renderName("{user}@x", as(b)));
        expect(renderTag("{user}", as(a))).not.toBe(renderTag("{user}", as(b)));
      }),
      20_000,
    );
  });
  test("survives JSON, as it is sent from process to process", () => {
    holds(
      fc.property(name, (one) => {
        const wire = Buffer.from(JSON.stringify(nameText(one)), "utf8").toString("utf8");
        expect(JSON.parse(wire)).toBe(nameText(one));
      }),
      5_000,
    );
  });
});
