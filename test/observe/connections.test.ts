import { describe, expect, test } from "bun:test";
import { Connections } from "../../src/observe/connections.ts";
import { parsePacket, type Segment } from "../../src/observe/packet.ts";
import { packet, SYN } from "./support.ts";

const GET = "GET /latest/user-data HTTP/1.1\r\n\r\n";
const segment = (options: Parameters<typeof packet>[0]): Segment => {
  const parsed = parsePacket(packet(options));
  if (parsed === null) throw new Error("no segment");
  return parsed;
};
/** What each segment tells: `+` where it opens a connection, and the category of its request. */
const noted = (...segments: Segment[]) => {
  const connections = new Connections<null>();
  return segments.map((one) => {
    const found = connections.note(one);
    return found === null ? null : `${found.opens ? "+" : ""}${found.request?.category ?? ""}`;
  });
};
const syn = segment({ flags: SYN, sequence: 99 });
const get = (sequence: number, data = GET) => segment({ sequence, data });

describe("Connections", () => {
  test("count a connection and its request once, however often each is sent", () => {
    expect(noted(syn, syn, get(100), get(100), syn)).toEqual(["+", null, "user-data", null, null]);
  });
  test("count every request of a kept connection", () => {
    expect(noted(syn, get(100), get(100 + GET.length), get(100))).toEqual([
      "+",
      "user-data",
      "user-data",
      null,
    ]);
  });
  test("count a request that is sent again together with what follows it once", () => {
    expect(noted(syn, get(100), get(100, `${GET}more`))).toEqual(["+", "user-data", null]);
  });
  test("take a port that is used again for another connection", () => {
    const again = segment({ flags: SYN, sequence: 5_000 });
    expect(noted(syn, get(100), again, get(5_001))).toEqual(["+", "user-data", "+", "user-data"]);
  });
  test("follow numbers over their end", () => {
    const late = segment({ flags: SYN, sequence: 0xffff_fff8 });
    const next = (0xffff_fff9 + GET.length) >>> 0;
    expect(noted(late, get(0xffff_fff9), get(next), get(0xffff_fff9))).toEqual([
      "+",
      "user-data",
      "user-data",
      null,
    ]);
  });
  test("see the data of a SYN (TCP Fast Open), and not again those of the first segment", () => {
    expect(noted(segment({ flags: SYN, sequence: 99, data: GET }), get(100))).toEqual(["+user-data", null]);
  });
  test("call a request unknown whose line is split, and its rest nothing", () => {
    expect(noted(syn, get(100, "GET /latest/us"), get(114, "er-data HTTP/1.1\r\n\r\n"))).toEqual([
      "+",
      "unknown",
      null,
    ]);
    expect(noted(syn, get(100, "G"), get(101, "ET /latest/user-data HTTP/1.1\r\n\r\n"))).toEqual([
      "+",
      "unknown",
      null,
    ]);
  });
  test("see the requests of a connection that was open before", () => {
    expect(noted(get(700), get(700))).toEqual(["user-data", null]);
  });
  test("tell nothing of acknowledgements and ends", () => {
    expect(
      noted(syn, segment({ sequence: 100, flags: 0x10 }), segment({ sequence: 100, flags: 0x11 })),
    ).toEqual(["+", null, null]);
  });
  test("keep connections with other ports and addresses apart", () => {
    const other = segment({ flags: SYN, sequence: 99, fromPort: 40_001 });
    const third = segment({ flags: SYN, sequence: 99, from: [10, 0, 0, 6] });
    expect(noted(syn, other, third)).toEqual(["+", "+", "+"]);
  });
  test("forget the one that was used least recently", () => {
    const connections = new Connections<null>(2);
    const open = (fromPort: number) =>
      connections.note(segment({ flags: SYN, sequence: 9, fromPort }))?.opens;
    expect([open(1), open(2), open(3), connections.size, open(2), open(1)]).toEqual([
      true,
      true,
      true,
      2,
      undefined,
      true,
    ]);
  });
});
