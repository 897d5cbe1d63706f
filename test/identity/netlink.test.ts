import { describe, expect, test } from "bun:test";
import {
  decodeByAttributes,
  decodeConnection,
  encodeConnectionRequest,
  TYPE_NEW,
} from "../../src/identity/netlink/conntrack.ts";
import {
  type DiagSocket,
  decodeSocket,
  encodeSocketRequest,
  SOCK_DIAG_BY_FAMILY,
} from "../../src/identity/netlink/inet-diag.ts";
import { align, readAttributes, readReply } from "../../src/identity/netlink/message.ts";
import { attribute, concat, FakeKernel, message } from "../support/fake-kernel.ts";
import { fuzzRuns, fuzzSeed, randomBytesFrom } from "../support/fuzz.ts";
import recorded from "./fixtures/netlink.json" with { type: "json" };

const PORT = 77;
const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"));

interface Recording {
  readonly portId: number;
  readonly request: Uint8Array;
  readonly answer: Uint8Array;
  readonly sequence: number;
}

/** What a real kernel answered; see fixtures/record.ts. */
function recording(name: string): Recording {
  const found = recorded.recordings.find((one) => one.name === name);
  if (found === undefined) throw new Error(`nothing was recorded of ${name}`);
  const request = bytesOf(found.request);
  return {
    portId: found.portId,
    request,
    answer: bytesOf(found.answer),
    sequence: view(request).getUint32(8, true),
  };
}

function payloadOf({ answer, sequence, portId }: Recording): DataView {
  const reply = readReply(view(answer), sequence, portId);
  if (reply.kind !== "message") throw new Error(`recorded: ${JSON.stringify(reply)}`);
  return reply.payload;
}

function recordedSocket(name: string): DiagSocket {
  const socket = decodeSocket(payloadOf(recording(`SOCK_DIAG_BY_FAMILY: ${name}`)));
  if (socket === null) throw new Error("cannot be decoded");
  return socket;
}

describe(`what Linux ${recorded.kernel} answered`, () => {
  const states: [name: string, state: number, uid: number, hasInode: boolean][] = [
    ["ESTABLISHED", 1, 2001, true],
    ["ESTABLISHED, IPv6", 1, 2001, true],
    ["ESTABLISHED, an IPv4-mapped IPv6 socket", 1, 2001, true],
    ["FIN_WAIT2 of a socket that still reads", 5, 2001, true],
    ["FIN_WAIT2 of a socket that was closed", 5, 0, false],
    ["TIME_WAIT", 6, 0, false],
    ["CLOSE_WAIT", 8, 2001, true],
    ["SYN_SENT", 2, 2001, true],
    ["a port on which somebody listens, of a connection that is none", 10, 2001, true],
    ["redirected", 1, 2001, true],
    ["redirected, IPv6", 1, 2001, true],
  ];
  for (const [name, state, uid, hasInode] of states) {
    test(`struct inet_diag_msg: ${name}`, () => {
      const socket = recordedSocket(name);
      expect([socket.state, socket.uid, socket.inode !== 0]).toEqual([state, uid, hasInode]);
      if (hasInode) expect(typeof socket.cgroupId).toBe("bigint");
    });
  }

  test("an IPv4-mapped socket has its IPv4 addresses", () => {
    const { tuple } = recordedSocket("ESTABLISHED, an IPv4-mapped IPv6 socket");
    expect([...tuple.sourceAddress]).toEqual([127, 0, 0, 1]);
    expect([...tuple.destinationAddress]).toEqual([127, 0, 0, 1]);
  });

  for (const name of ["redirected", "redirected, IPv6"]) {
    test(`ctnetlink: ${name}: the original direction is the caller's socket, the reply is as it was asked for`, () => {
      const entry = decodeConnection(payloadOf(recording(`IPCTNL_MSG_CT_GET: ${name}`)));
      expect(entry?.original).toEqual(recordedSocket(name).tuple);
      expect(entry?.original.destinationPort).toBe(80);
      expect(entry?.reply.sourcePort).toBe(9988);
      expect(entry?.reply.destinationPort).toBe(entry?.original.sourcePort ?? 0);
    });
  }

  const errors: [name: string, errno: number][] = [
    ["SOCK_DIAG_BY_FAMILY: no socket", 2],
    ["IPCTNL_MSG_CT_GET: no entry", 2],
    ["IPCTNL_MSG_CT_GET: without CAP_NET_ADMIN", 1],
  ];
  for (const [name, errno] of errors) {
    test(`struct nlmsgerr: ${name}: errno ${errno}`, () => {
      const { answer, sequence, portId } = recording(name);
      expect(readReply(view(answer), sequence, portId)).toEqual({ kind: "error", errno });
    });
  }

  test("our requests are byte for byte those that it answered", () => {
    for (const one of recorded.recordings) {
      const { request, sequence } = recording(one.name);
      const [command = "", name = ""] = one.name.split(": ");
      if (command === "SOCK_DIAG_BY_FAMILY" && name.startsWith("redirected")) {
        expect(Buffer.from(encodeSocketRequest(recordedSocket(name).tuple, sequence)).toString("hex")).toBe(
          one.request,
        );
      }
      if (command === "IPCTNL_MSG_CT_GET" && name.startsWith("redirected")) {
        const entry = decodeConnection(payloadOf(recording(one.name)));
        if (entry === null) throw new Error("no entry");
        expect(Buffer.from(encodeConnectionRequest(entry.reply, sequence)).toString("hex")).toBe(one.request);
      }
      expect(request.length).toBe(view(request).getUint32(0, true));
    }
  });

  test("the published fake kernel answers the same in the same situations", () => {
    for (const [name, state] of states) {
      const real = recording(`SOCK_DIAG_BY_FAMILY: ${name}`);
      const socket = recordedSocket(name);
      const kernel = new FakeKernel();
      kernel.sockets.push({
        tuple: socket.tuple,
        uid: socket.uid,
        inode: socket.inode,
        state,
        mapped: name.includes("mapped"),
        ...(socket.cgroupId === null ? {} : { cgroupId: socket.cgroupId }),
      });
      kernel.diag.send(real.request);
      const reply = readReply(
        kernel.diag.receive() ?? view(new Uint8Array()),
        real.sequence,
        kernel.diag.portId,
      );
      if (reply.kind !== "message") throw new Error(`fake: ${JSON.stringify(reply)}`);
      expect(reply.type).toBe(SOCK_DIAG_BY_FAMILY);
      expect(decodeSocket(reply.payload)).toEqual(socket);
      // And as the kernel's, byte for byte, up to what counts time and queues.
      expect(Buffer.from(reply.payload.buffer, reply.payload.byteOffset, 2)).toEqual(
        Buffer.from(payloadOf(real).buffer, payloadOf(real).byteOffset, 2),
      );
    }
    for (const name of ["redirected", "redirected, IPv6"]) {
      const real = recording(`IPCTNL_MSG_CT_GET: ${name}`);
      const entry = decodeConnection(payloadOf(real));
      if (entry === null) throw new Error("no entry");
      const kernel = new FakeKernel();
      kernel.entries.push(entry);
      kernel.conntrack.send(real.request);
      const reply = readReply(
        kernel.conntrack.receive() ?? view(new Uint8Array()),
        real.sequence,
        kernel.conntrack.portId,
      );
      expect(reply.kind === "message" ? [reply.type, decodeConnection(reply.payload)] : reply).toEqual([
        TYPE_NEW,
        entry,
      ]);
    }
    for (const [name, errno] of errors) {
      const real = recording(name);
      const kernel = new FakeKernel();
      if (errno === 1) kernel.conntrackErrno = 1;
      const channel = name.startsWith("SOCK") ? kernel.diag : kernel.conntrack;
      channel.send(real.request);
      const datagram = channel.receive() ?? view(new Uint8Array());
      expect(readReply(datagram, real.sequence, channel.portId)).toEqual({ kind: "error", errno });
      expect(datagram.byteLength).toBe(real.answer.length);
    }
  });
});

describe("readReply() refuses", () => {
  const good = message(20, 5, PORT, Uint8Array.of(1, 2, 3, 4));
  const changed = (offset: number, value: number, width: 2 | 4 = 4): Uint8Array => {
    const bytes = good.slice();
    if (width === 4) view(bytes).setUint32(offset, value, true);
    else view(bytes).setUint16(offset, value, true);
    return bytes;
  };
  const cases: [name: string, datagram: Uint8Array, why: string][] = [
    ["nothing", new Uint8Array(), "shorter than a header"],
    ["short", good.slice(0, 15), "shorter than a header"],
    ["header length below minimum", changed(0, 15), "header length below minimum"],
    ["header length zero", changed(0, 0), "header length below minimum"],
    ["truncated", good.slice(0, 19), "truncated"],
    ["header length beyond the datagram", changed(0, 21), "truncated"],
    ["header length of all ones", changed(0, 0xffff_ffff), "truncated"],
    ["header length with the sign's bit", changed(0, 0x8000_0014), "truncated"],
    ["more than one message", concat(good, good), "more than one message"],
    [
      "a message and NLMSG_DONE",
      concat(good, message(3, 5, PORT, new Uint8Array(4))),
      "more than one message",
    ],
    ["padding beyond alignment", concat(good, new Uint8Array(4)), "more than one message"],
    ["foreign port id", changed(12, PORT + 1), "addressed to another port id"],
    ["the kernel's own port id", changed(12, 0), "addressed to another port id"],
    ["an acknowledgement", message(2, 5, PORT, new Uint8Array(20)), "acknowledgement instead of an answer"],
    [
      "an error of positive errno",
      message(2, 5, PORT, Uint8Array.of(1, 0, 0, 0)),
      "acknowledgement instead of an answer",
    ],
    ["an error without errno", message(2, 5, PORT, Uint8Array.of(1, 0)), "error message without an errno"],
  ];
  for (const [name, datagram, why] of cases) {
    test(name, () => expect(readReply(view(datagram), 5, PORT)).toEqual({ kind: "malformed", why }));
  }

  for (const sequence of [0, 4, 6, 5 + 2 ** 31, 0xffff_ffff]) {
    test(`the answer to another request: sequence ${sequence}`, () => {
      expect(readReply(view(message(20, sequence, PORT, new Uint8Array(4))), 5, PORT)).toEqual({
        kind: "stale",
      });
    });
  }

  test("nothing of a good message, nor of one whose end is not aligned and padded", () => {
    expect(readReply(view(good), 5, PORT)).toMatchObject({ kind: "message", type: 20 });
    const unaligned = message(20, 5, PORT, Uint8Array.of(1, 2));
    for (const padding of [0, 1, 2]) {
      const reply = readReply(view(concat(unaligned, new Uint8Array(padding))), 5, PORT);
      expect(reply.kind === "message" ? reply.payload.byteLength : reply).toBe(2);
    }
  });

  test("NLM_F_MULTI makes no difference: one object was asked for, and the type says what it is", () => {
    expect(readReply(view(changed(6, 2, 2)), 5, PORT)).toMatchObject({ kind: "message", type: 20 });
    // NLMSG_DONE, NLMSG_NOOP and NLMSG_OVERRUN are messages of their types, which nobody takes for an answer.
    for (const type of [1, 3, 4]) {
      expect(readReply(view(changed(4, type, 2)), 5, PORT)).toMatchObject({ kind: "message", type });
    }
  });
});

describe("readAttributes()", () => {
  const one = attribute(1, Uint8Array.of(1, 2, 3));
  test("reads attributes to the end, flags taken off, the last without its padding", () => {
    const bytes = concat(one, attribute(0x8002, one), attribute(0x4003, new Uint8Array()).slice(0, 4));
    const found = readAttributes(view(bytes), 0);
    expect(found?.size).toBe(3);
    expect([1, 2, 3, 4].map((type) => found?.get(type)?.byteLength)).toEqual([3, 8, 0, undefined]);
    expect(readAttributes(view(one.slice(0, 7)), 0)?.get(1)?.byteLength).toBe(3);
    expect(readAttributes(view(new Uint8Array()), 0)?.size).toBe(0);
  });

  const damaged: [name: string, bytes: Uint8Array][] = [
    ["short", Uint8Array.of(4, 0, 1)],
    ["a length below its header", Uint8Array.of(3, 0, 1, 0)],
    ["a length of zero", new Uint8Array(8)],
    ["a length beyond the end", Uint8Array.of(9, 0, 1, 0, 1, 2, 3, 4)],
    ["a second one that is cut", concat(one, Uint8Array.of(8, 0, 2))],
    ["repeated", concat(one, one)],
    ["repeated under another flag", concat(one, attribute(0x8001, Uint8Array.of(1)))],
  ];
  for (const [name, bytes] of damaged) {
    test(`refuses what is ${name}`, () => expect(readAttributes(view(bytes), 0)).toBeNull());
  }
});

describe("decodeSocket() refuses", () => {
  const good = payloadOf(recording("SOCK_DIAG_BY_FAMILY: ESTABLISHED"));
  const bytes = new Uint8Array(good.buffer.slice(good.byteOffset, good.byteOffset + good.byteLength));
  test("nothing of what was recorded", () => expect(decodeSocket(view(bytes))).not.toBeNull());
  test("every length below struct inet_diag_msg", () => {
    for (let length = 0; length < 72; length++) expect(decodeSocket(view(bytes.slice(0, length)))).toBeNull();
  });
  test("a family that is neither", () => {
    for (const family of [0, 1, 3, 9, 11, 255]) {
      const other = bytes.slice();
      other[0] = family;
      expect(decodeSocket(view(other))).toBeNull();
    }
  });
  test("a cgroup id of another length", () => {
    for (const length of [0, 4, 7, 9]) {
      const other = concat(bytes.slice(0, 72), attribute(21, new Uint8Array(length)));
      expect(decodeSocket(view(other))).toBeNull();
    }
  });
  test("two cgroup ids", () => {
    const id = attribute(21, new Uint8Array(8));
    expect(decodeSocket(view(concat(bytes.slice(0, 72), id, id)))).toBeNull();
  });
});

describe("decodeConnection() refuses", () => {
  const head = Uint8Array.of(2, 0, 0, 0);
  const addresses = concat(
    attribute(1, Uint8Array.of(127, 0, 0, 1)),
    attribute(2, Uint8Array.of(127, 0, 0, 1)),
  );
  const ports = concat(
    attribute(1, Uint8Array.of(6)),
    attribute(2, Uint8Array.of(1, 2)),
    attribute(3, Uint8Array.of(3, 4)),
  );
  const tuple = (ip: Uint8Array, proto: Uint8Array) =>
    concat(attribute(0x8001, ip), attribute(0x8002, proto));
  const entry = (original: Uint8Array | null, reply: Uint8Array | null) =>
    concat(
      head,
      original === null ? new Uint8Array() : attribute(0x8001, original),
      reply === null ? new Uint8Array() : attribute(0x8002, reply),
    );
  const good = tuple(addresses, ports);

  test("nothing of a good entry", () => expect(decodeConnection(view(entry(good, good)))).not.toBeNull());

  const bad: [name: string, tuple: Uint8Array][] = [
    ["no addresses", attribute(0x8002, ports)],
    ["no protocol", attribute(0x8001, addresses)],
    ["UDP", tuple(addresses, concat(attribute(1, Uint8Array.of(17)), ports.slice(8)))],
    ["no number of a protocol", tuple(addresses, ports.slice(8))],
    [
      "a protocol number of two bytes",
      tuple(addresses, concat(attribute(1, Uint8Array.of(6, 0)), ports.slice(8))),
    ],
    ["one port", tuple(addresses, ports.slice(0, 16))],
    ["a port of four bytes", tuple(addresses, concat(ports.slice(0, 16), attribute(3, new Uint8Array(4))))],
    ["one address", tuple(addresses.slice(0, 8), ports)],
    ["an address of five bytes", tuple(concat(attribute(1, new Uint8Array(5)), addresses.slice(8)), ports)],
    [
      "addresses of two families",
      tuple(concat(addresses.slice(0, 8), attribute(4, new Uint8Array(16))), ports),
    ],
    [
      "an IPv4 address under IPv6's name",
      tuple(concat(attribute(3, new Uint8Array(4)), attribute(4, new Uint8Array(4))), ports),
    ],
    ["addresses that are repeated", tuple(concat(addresses, addresses), ports)],
  ];
  for (const [name, broken] of bad) {
    test(`an entry with ${name}, in either direction`, () => {
      expect(decodeConnection(view(entry(broken, good)))).toBeNull();
      expect(decodeConnection(view(entry(good, broken)))).toBeNull();
    });
  }
  test("an entry of one direction, or of none", () => {
    expect(decodeConnection(view(entry(good, null)))).toBeNull();
    expect(decodeConnection(view(entry(null, good)))).toBeNull();
    expect(decodeConnection(view(entry(null, null)))).toBeNull();
    expect(decodeConnection(view(concat(entry(good, good), attribute(0x8001, good))))).toBeNull();
    for (let length = 0; length < 4; length++)
      expect(decodeConnection(view(head.slice(0, length)))).toBeNull();
  });
});

describe("the decoders throw at no bytes", () => {
  const random = randomBytesFrom(fuzzSeed);
  const pick = (below: number): number => {
    const [a = 0, b = 0, c = 0] = random(3);
    return (a * 65_536 + b * 256 + c) % below;
  };
  const answers = recorded.recordings.map(({ name }) => recording(name));

  function decodeAll(bytes: Uint8Array, sequence: number, portId: number): void {
    const reply = readReply(view(bytes), sequence, portId);
    const payload = reply.kind === "message" ? reply.payload : view(bytes);
    decodeSocket(payload);
    decodeConnection(payload);
    readAttributes(payload, pick(20));
    expect(align(bytes.length) - bytes.length).toBeLessThan(4);
  }

  test(`random ones (seed ${fuzzSeed})`, () => {
    for (let run = 0; run < fuzzRuns(30_000); run++) decodeAll(random(pick(200)), 5, PORT);
  });

  test(`recorded ones, cut, lengthened, and with bytes replaced (seed ${fuzzSeed})`, () => {
    for (let run = 0; run < fuzzRuns(60_000); run++) {
      const one = answers[pick(answers.length)];
      if (one === undefined) continue;
      let bytes: Uint8Array = one.answer.slice();
      for (let change = pick(4); change >= 0; change--) {
        const at = pick(bytes.length || 1);
        const way = pick(5);
        if (way === 0) bytes = bytes.slice(0, at);
        else if (way === 1) bytes = concat(bytes, random(pick(40)));
        else if (way === 2) bytes = concat(bytes.slice(0, at), random(1), bytes.slice(at));
        else if (bytes.length > 0) bytes[at] = way === 3 ? pick(256) : (bytes[at] ?? 0) ^ (1 << pick(8));
      }
      decodeAll(bytes, one.sequence, one.portId);
    }
  });
});

describe("an entry in the kernel's own form", () => {
  const names = recorded.recordings
    .map(({ name }) => name)
    .filter((name) => name.startsWith("IPCTNL_MSG_CT_GET"));
  const entries = names.map((name) => {
    const reply = readReply(view(recording(name).answer), recording(name).sequence, recording(name).portId);
    return reply.kind === "message" ? reply.payload : null;
  });
  const payloads = entries.filter((payload) => payload !== null);

  // A million: IMDSPROXY_FUZZ_RUNS=200.
  test("is decoded at once as it is by its attributes, also where bytes of it are changed, missing or more", () => {
    expect(payloads.length).toBeGreaterThan(0);
    const runs = fuzzRuns(5_000);
    const random = randomBytesFrom(fuzzSeed);
    let decoded = 0;
    for (let run = 0; run < runs; run++) {
      const payload = payloads[run % payloads.length];
      if (payload === undefined) throw new Error("recorded");
      const [changes = 0, where = 0, far = 0, value = 0, length = 0] = random(5);
      const bytes = new Uint8Array(
        payload.buffer.slice(payload.byteOffset, payload.byteOffset + payload.byteLength),
      );
      if (changes % 4 > 0) bytes[(where | (far << 8)) % bytes.length] = value;
      if (changes % 4 > 1) bytes[far % bytes.length] = value & 0x3f;
      // The same attributes once more, or a part of them.
      const cut = length % 8 === 0 ? bytes.subarray(0, (length * 7) % (bytes.length + 1)) : bytes;
      const whole = length % 8 === 1 ? concat(cut, bytes.subarray(4 * (value % (bytes.length / 4)))) : cut;
      const once = decodeConnection(view(whole));
      expect(once).toEqual(decodeByAttributes(view(whole)));
      if (once !== null) decoded++;
    }
    expect(decoded).toBeGreaterThan(runs / 10);
    expect(decoded).toBeLessThan(runs);
  });
});
