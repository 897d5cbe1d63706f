import { expect, test } from "bun:test";
import { parsePacket } from "../../src/observe/packet.ts";
import { packet, SYN } from "./support.ts";

test("parsePacket() reads an IPv4 segment", () => {
  const segment = parsePacket(packet({ data: "GET /", sequence: 0xffff_fff0 }));
  expect(segment).toEqual({
    tuple: {
      sourceAddress: Uint8Array.of(10, 0, 0, 5),
      sourcePort: 40_000,
      destinationAddress: Uint8Array.of(169, 254, 169, 254),
      destinationPort: 80,
    },
    sequence: 0xffff_fff0,
    syn: false,
    dataLength: 5,
    data: Uint8Array.from(Buffer.from("GET /")),
  });
});
test("parsePacket() tells a SYN from a SYN-ACK", () => {
  expect(parsePacket(packet({ flags: SYN }))?.syn).toBe(true);
  expect(parsePacket(packet({ flags: 0x12 }))?.syn).toBe(false);
});
test("parsePacket() knows the whole length where only the beginning was captured", () => {
  const segment = parsePacket(packet({ data: "x".repeat(500), snaplen: 100 }));
  expect([segment?.dataLength, segment?.data.length]).toEqual([500, 60]);
});
test("parsePacket() reads IPv6, extension headers included", () => {
  const from = Array.from({ length: 16 }, (_, i) => i);
  const plain = packet({ from, to: from, data: "PUT" });
  expect(parsePacket(plain)?.data.length).toBe(3);
  // A hop-by-hop header of 8 bytes in front of TCP.
  const bytes = new Uint8Array(plain.buffer.byteLength + 8);
  bytes.set(new Uint8Array(plain.buffer, 0, 40));
  bytes[6] = 0;
  bytes[5] = 31;
  bytes.set([6, 0, 1, 4, 0, 0, 0, 0], 40);
  bytes.set(new Uint8Array(plain.buffer, 40), 48);
  const segment = parsePacket(new DataView(bytes.buffer));
  expect([segment?.tuple.destinationPort, segment?.data.length]).toEqual([80, 3]);
});
test("parsePacket() is null for what is no TCP segment, a later fragment, and any cut into the headers", () => {
  const whole = packet({ data: "GET /" });
  const changed = (at: number, value: number) => {
    const bytes = new Uint8Array(whole.buffer.slice(0));
    bytes[at] = value;
    return new DataView(bytes.buffer);
  };
  expect(parsePacket(changed(9, 17))).toBeNull();
  expect(parsePacket(changed(7, 1))).toBeNull();
  expect(parsePacket(changed(0, 0x41))).toBeNull();
  expect(parsePacket(changed(0, 0x75))).toBeNull();
  expect(parsePacket(changed(32, 0x40))).toBeNull();
  expect(parsePacket(changed(32, 0xf0))).toBeNull();
  for (let cut = 0; cut < 40; cut++) expect(parsePacket(new DataView(whole.buffer, 0, cut))).toBeNull();
});
test("parsePacket() never throws, whatever the bytes are", () => {
  let state = 1;
  const random = () => {
    state = (state * 1_103_515_245 + 12_345) >>> 0;
    return state >>> 16;
  };
  for (let round = 0; round < 20_000; round++) {
    const bytes = Uint8Array.from({ length: random() % 120 }, () => random() & 0xff);
    if (bytes.length > 0) bytes[0] = (random() % 2 === 0 ? 0x40 : 0x60) | ((bytes[0] ?? 0) & 0xf);
    const segment = parsePacket(new DataView(bytes.buffer));
    if (segment !== null) expect(segment.data.length).toBeLessThanOrEqual(bytes.length);
  }
});
