import { describe, expect, test } from "bun:test";
import { encodeBind, readBindAnswer, readPackets } from "../../src/observe/nflog.ts";

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ""), "hex");
const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

test("encodeBind() is one message that binds the group, copies packets at once and numbers them", () => {
  const parts = [
    "4000000001040500" + "0700000000000000", // nlmsghdr: NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, REQUEST | ACK
    "00006342", // nfgenmsg: AF_UNSPEC, version 0, the group
    "0500010001000000", // NFULA_CFG_CMD: NFULNL_CFG_CMD_BIND
    "0a00020000000400" + "02000000", // NFULA_CFG_MODE: 1,024 bytes, NFULNL_COPY_PACKET
    "0800030000000600", // NFULA_CFG_NLBUFSIZ
    "0800050000000001", // NFULA_CFG_QTHRESH: 1
    "0600060000010000", // NFULA_CFG_FLAGS: NFULNL_CFG_F_SEQ
  ];
  expect(Buffer.from(encodeBind(25_410, 1_024, 7)).toString("hex")).toBe(parts.join(""));
});

describe("readBindAnswer()", () => {
  const answer = (errno: string, sequence = "07000000") =>
    view(hex(`24000000 0200 0000 ${sequence} 00000000 ${errno} ${"00".repeat(16)}`));
  test("is 0 for an acknowledgement, and the error's number", () => {
    expect(readBindAnswer(answer("00000000"), 7)).toBe(0);
    expect(readBindAnswer(answer("ffffffff"), 7)).toBe(1);
  });
  test("is null for the answer to another request, and for a damaged one", () => {
    expect(readBindAnswer(answer("00000000", "08000000"), 7)).toBeNull();
    expect(readBindAnswer(view(hex("24000000")), 7)).toBeNull();
  });
});

describe("readPackets()", () => {
  // As linux 6.18 sends it, cut: uid 2001, number 5, out by interface 3.
  const message = hex(`
    38000000 0004 0000 00000000 00000000
    02006342
    0800 0b00 000007d1
    0800 0c00 00000005
    0800 0500 00000003
    0a00 0900 450102030405 0000
  `);
  test("reads uid, number, interface and bytes", () => {
    const [packet, ...more] = readPackets(view(message));
    expect(more).toEqual([]);
    expect(packet && { ...packet, bytes: packet.bytes.byteLength }).toEqual({
      group: 25_410,
      uid: 2001,
      sequence: 5,
      outInterface: 3,
      bytes: 6,
    });
  });
  test("has null for what the kernel does not say", () => {
    const bare = hex(`1c000000 0004 0000 00000000 00000000 02006342 0500 0900 45 000000`);
    expect(
      readPackets(view(bare)).map(({ uid, sequence, outInterface }) => [uid, sequence, outInterface]),
    ).toEqual([[null, null, null]]);
  });
  test("ignores other messages, and whatever is damaged", () => {
    for (let cut = 0; cut < message.length; cut++)
      expect(readPackets(view(message.subarray(0, cut)))).toEqual([]);
    const other = Buffer.from(message);
    other[5] = 5;
    expect(readPackets(view(other))).toEqual([]);
  });
});
