import { describe, expect, test } from "bun:test";
import {
  bytes,
  encodeAttributes,
  find,
  nest,
  text,
  textOf,
  u32,
  u32Of,
  u64,
  u64Of,
  walkAttributes,
} from "../../src/firewall/nftables/attributes.ts";
import {
  encodeBatch,
  encodeRequest,
  expression,
  FLAG,
  rawExpression,
  readBatchAnswer,
  readBody,
  readDumpPart,
  readMessages,
} from "../../src/firewall/nftables/batch.ts";
import { COUNTER, MSG, NFPROTO, RULE, TABLE } from "../../src/firewall/nftables/names.ts";

const view = (array: Uint8Array): DataView => new DataView(array.buffer, array.byteOffset, array.byteLength);
const hex = (array: Uint8Array): string => Buffer.from(array).toString("hex");
const fromHex = (...parts: string[]): DataView =>
  view(Uint8Array.from(Buffer.from(parts.join("").replaceAll(" ", ""), "hex")));

describe("attributes", () => {
  test("are padded to four, and their length says how long they are without it", () => {
    // nla_len 7, nla_type 1, "ab" and NUL, one of padding; then a big-endian number.
    expect(hex(encodeAttributes([text(1, "ab"), u32(2, 0x01020304)]))).toBe(
      "07000100616200000800020001020304",
    );
  });
  test("inside an attribute bear NLA_F_NESTED", () => {
    expect(hex(encodeAttributes([nest(4, u32(1, 1))]))).toBe("0c0004800800010000000001");
  });
  test("come back as they were, repeated types in their order", () => {
    const read =
      walkAttributes(view(encodeAttributes([u32(1, 5), u64(2, 6n), u32(1, 7), text(3, "a")]))) ?? [];
    expect(read.map(({ type }) => type)).toEqual([1, 2, 1, 3]);
    expect(u32Of(find(read, 1))).toBe(5);
    expect(u64Of(find(read, 2))).toBe(6n);
    expect(textOf(find(read, 3) as DataView)).toBe("a");
    expect([u32Of(find(read, 2)), u64Of(find(read, 1)), u32Of(find(read, 9))]).toEqual([null, null, null]);
  });
  test.each(["0400", "03000100", "08000100ff", "ffff0100"])("that overrun are none: %s", (damaged) => {
    expect(walkAttributes(fromHex(damaged))).toBeNull();
  });
  test("too long for u16 nla_len are refused, not cut", () => {
    expect(() => encodeAttributes([bytes(1, new Uint8Array(65_532))])).toThrow(RangeError);
    expect(encodeAttributes([bytes(1, new Uint8Array(65_531))])).toHaveLength(65_536);
  });
  test("an expression that was encoded before is the same inside another message", () => {
    const data = encodeAttributes([u64(COUNTER.BYTES, 0n), u64(COUNTER.PACKETS, 0n)]);
    const whole = expression("counter", u64(COUNTER.BYTES, 0n), u64(COUNTER.PACKETS, 0n));
    expect(hex(encodeAttributes([rawExpression("counter", data)]))).toBe(hex(encodeAttributes([whole])));
  });
});

const message = (name: string) => ({
  command: MSG.NEWTABLE,
  family: NFPROTO.IPV4,
  flags: FLAG.CREATE,
  attributes: [text(TABLE.NAME, name)],
});

describe("a batch", () => {
  test("has a begin and an end, and its messages count on from the begin", () => {
    expect(hex(encodeBatch([message("a")], 7, 0x10))).toBe(
      [
        // NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, sequence 7; res_id NFNL_SUBSYS_NFTABLES; NFNL_BATCH_GENID 16
        "1c000000 1000 0100 07000000 00000000 00 00 000a 08000100 00000010",
        // NFT_MSG_NEWTABLE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, sequence 8; NFTA_TABLE_NAME "a"
        "1c000000 000a 0504 08000000 00000000 02 00 0000 06000100 61000000",
        // NFNL_MSG_BATCH_END, sequence 9
        "14000000 1100 0100 09000000 00000000 00 00 000a",
      ]
        .join("")
        .replaceAll(" ", ""),
    );
  });

  /** struct nlmsghdr of NLMSG_ERROR, and struct nlmsgerr with the header of what it answers. */
  const answer = (sequence: number, errno: number): Uint8Array => {
    const out = new Uint8Array(36);
    const header = view(out);
    header.setUint32(0, 36, true);
    header.setUint16(4, 2, true);
    header.setUint32(8, sequence, true);
    header.setInt32(16, -errno, true);
    return out;
  };
  const read = (...answers: Uint8Array[]) => readBatchAnswer(answers.map(view), 100, 3);

  test("is done where its last message is acknowledged, and nothing was refused", () => {
    expect(read(answer(103, 0))).toEqual({ acknowledged: true, errors: [] });
    expect(read()).toEqual({ acknowledged: false, errors: [] });
    expect(read(answer(101, 0))).toEqual({ acknowledged: false, errors: [] });
  });
  test("says which of its messages the kernel refused, though the last was acknowledged", () => {
    expect(read(answer(101, 2), answer(102, 17), answer(103, 0))).toEqual({
      acknowledged: true,
      errors: [
        { index: 0, errno: 2 },
        { index: 1, errno: 17 },
      ],
    });
  });
  test("that fails as a whole has the error at its begin", () => {
    expect(read(answer(100, 85)).errors).toEqual([{ index: -1, errno: 85 }]);
  });
  test("is not answered by what answers another", () => {
    expect(read(answer(99, 1), answer(105, 1), answer(3, 0))).toEqual({ acknowledged: false, errors: [] });
  });
  test("several answers in one datagram are several", () => {
    const both = Buffer.concat([answer(101, 1), answer(103, 0)]);
    expect(readBatchAnswer([view(both)], 100, 3)).toEqual({
      acknowledged: true,
      errors: [{ index: 0, errno: 1 }],
    });
  });
});

describe("a dump", () => {
  const rule = (sequence: number, flags = 2): Uint8Array => {
    const request = encodeRequest(
      { command: MSG.NEWRULE, family: NFPROTO.IPV4, flags: 0, attributes: [text(RULE.TABLE, "nat")] },
      sequence,
    );
    view(request).setUint16(6, flags, true);
    return request;
  };
  const done = (sequence: number, error = 0): Uint8Array => {
    const out = new Uint8Array(20);
    view(out).setUint32(0, 20, true);
    view(out).setUint16(4, 3, true);
    view(out).setUint32(8, sequence, true);
    view(out).setInt32(16, error, true);
    return out;
  };

  test("goes on until NLMSG_DONE", () => {
    const part = readDumpPart(view(Buffer.concat([rule(5), rule(5)])), 5);
    expect([part.kind, part.kind === "objects" && [part.objects.length, part.done]]).toEqual([
      "objects",
      [2, false],
    ]);
    expect(readDumpPart(view(done(5)), 5)).toEqual({ kind: "objects", objects: [], done: true });
    const [object] = part.kind === "objects" ? part.objects : [];
    const body = object === undefined ? null : readBody(object);
    expect([body?.family, textOf(find(body?.attributes ?? [], RULE.TABLE) as DataView)]).toEqual([
      NFPROTO.IPV4,
      "nat",
    ]);
  });
  test("of which the kernel says that it was interrupted is to be asked for again", () => {
    expect(readDumpPart(view(rule(5, 0x12)), 5)).toEqual({ kind: "interrupted" });
  });
  test("may end in an error", () => {
    expect(readDumpPart(view(done(5, -2)), 5)).toEqual({ kind: "error", errno: 2 });
  });
  test("of another request is passed over", () => {
    expect(readDumpPart(view(rule(4)), 5)).toEqual({ kind: "objects", objects: [], done: false });
  });
  test("that is cut off is damaged", () => {
    const whole = rule(5);
    for (let length = 1; length < whole.length; length++) {
      expect([length, readMessages(view(whole.slice(0, length)))]).toEqual([length, null]);
    }
  });
});
