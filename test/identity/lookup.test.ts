import { describe, expect, test } from "bun:test";
import { parseAddress } from "../../src/identity/address.ts";
import { type AcceptedConnection, type Lookup, SocketLookup } from "../../src/identity/lookup.ts";
import { concat, FakeKernel, type FakeSocket, type FakeTuple, message } from "../support/fake-kernel.ts";
import { fuzzRuns, fuzzSeed, randomBytesFrom } from "../support/fuzz.ts";

const address = (text: string): Uint8Array => {
  const bytes = parseAddress(text);
  if (bytes === null) throw new Error(`no address: ${text}`);
  return bytes;
};
const tuple = (
  source: string,
  sourcePort: number,
  destination: string,
  destinationPort: number,
): FakeTuple => ({
  sourceAddress: address(source),
  sourcePort,
  destinationAddress: address(destination),
  destinationPort,
});
const accepted = (local: string, localPort: number, peer: string, peerPort: number): AcceptedConnection => ({
  localAddress: address(local),
  localPort,
  peerAddress: address(peer),
  peerPort,
});

const ALICE = 2001;
/** Alice's request to the metadata address; the redirect gave it another source port. */
const ORIGINAL = tuple("10.77.0.2", 40_000, "169.254.169.254", 80);
const REPLY = tuple("127.0.0.1", 254, "10.77.0.2", 50_000);
const ACCEPTED = accepted("127.0.0.1", 254, "10.77.0.2", 50_000);
const ALICES: FakeSocket = { tuple: ORIGINAL, uid: ALICE, inode: 77, cgroupId: 4_242n };

function aKernel(sockets: FakeSocket[] = [ALICES], original = ORIGINAL, reply = REPLY) {
  const kernel = new FakeKernel();
  kernel.sockets.push(...sockets);
  kernel.entries.push({ original, reply });
  return { kernel, lookup: new SocketLookup({ diag: kernel.diag, conntrack: kernel.conntrack }) };
}

const owner = (uid: number, redirected = true, cgroupId: bigint | null = 4_242n): Lookup => ({
  kind: "owner",
  owner: { uid, cgroupId, redirected },
});
const why = (found: Lookup): string => (found.kind === "refused" ? found.why : `owner ${found.owner.uid}`);

describe("identify() finds", () => {
  test("the owner of the original connection, whatever port the translation gave it", () => {
    expect(aKernel().lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
  });

  test("the same over IPv6", () => {
    const original = tuple("fd77::2", 40_000, "fd00:ec2::254", 80);
    const { lookup } = aKernel(
      [{ ...ALICES, tuple: original }],
      original,
      tuple("::1", 254, "fd77::2", 50_000),
    );
    expect(lookup.identify(accepted("::1", 254, "fd77::2", 50_000))).toEqual(owner(ALICE));
  });

  test("the owner of an IPv4-mapped IPv6 socket", () => {
    expect(aKernel([{ ...ALICES, mapped: true }]).lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
  });

  test("the owner of a connection straight to our address, tracked, or where nothing is tracked", () => {
    const direct = tuple("127.0.0.1", 40_000, "127.0.0.1", 254);
    const socket = { ...ALICES, tuple: direct };
    const connection = accepted("127.0.0.1", 254, "127.0.0.1", 40_000);
    const { lookup, kernel } = aKernel([socket], direct, tuple("127.0.0.1", 254, "127.0.0.1", 40_000));
    kernel.entries.length = 0;
    expect(lookup.identify(connection)).toEqual(owner(ALICE, false));
    kernel.entries.push({ original: direct, reply: tuple("127.0.0.1", 254, "127.0.0.1", 40_000) });
    expect(lookup.identify(connection)).toEqual(owner(ALICE, false));
    // Where others are tracked, one that is not has lost its entry.
    kernel.entries.length = 0;
    expect(why(lookup.identify(connection))).toBe("connection tracking has lost the connection");
  });

  test("a caller who has sent everything and still reads: FIN_WAIT1 and FIN_WAIT2", () => {
    for (const state of [4, 5])
      expect(aKernel([{ ...ALICES, state }]).lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
  });

  test("no cgroup where the kernel tells none", () => {
    const { tuple: at, uid, inode } = ALICES;
    expect(aKernel([{ tuple: at, uid, inode }]).lookup.identify(ACCEPTED)).toEqual(owner(ALICE, true, null));
  });

  test("the uid 0 where root connects to our own address; never behind the redirect, where a user's socket alone can be", () => {
    const direct = tuple("127.0.0.1", 40_000, "127.0.0.1", 254);
    const connection = accepted("127.0.0.1", 254, "127.0.0.1", 40_000);
    const reply = tuple("127.0.0.1", 254, "127.0.0.1", 40_000);
    const { lookup } = aKernel([{ ...ALICES, tuple: direct, uid: 0 }], direct, reply);
    expect(lookup.identify(connection)).toEqual(owner(0, false));
    // As below an AF_SMC listener of alice's.
    expect(why(aKernel([{ ...ALICES, uid: 0 }]).lookup.identify(ACCEPTED))).toContain(
      "the socket has root's uid",
    );
  });

  for (const uid of [1, 65_534, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2]) {
    test(`the uid ${uid} as it is`, () =>
      expect(aKernel([{ ...ALICES, uid }]).lookup.identify(ACCEPTED)).toEqual(owner(uid)));
  }

  test("the right one of two sockets that share the translated port", () => {
    // The attacker holds port 50,000 of the node's own address with a connection straight to the proxy.
    const attackers = { tuple: tuple("10.77.0.2", 50_000, "127.0.0.1", 254), uid: 6_666, inode: 88 };
    expect(aKernel([attackers, ALICES]).lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
  });

  test("nobody's port alone: 127.0.0.2 on the victim's port is another connection", () => {
    const victims = { ...ALICES, tuple: tuple("127.0.0.1", 40_000, "127.0.0.1", 254) };
    const attackers = { tuple: tuple("127.0.0.2", 40_000, "127.0.0.1", 254), uid: 6_666, inode: 88 };
    const { lookup, kernel } = aKernel([victims, attackers]);
    kernel.entries.length = 0;
    expect(lookup.identify(accepted("127.0.0.1", 254, "127.0.0.2", 40_000))).toEqual(
      owner(6_666, false, null),
    );
    expect(lookup.identify(accepted("127.0.0.1", 254, "127.0.0.1", 40_000))).toEqual(owner(ALICE, false));
    expect(why(lookup.identify(accepted("127.0.0.1", 254, "127.0.0.3", 40_000)))).toContain("no socket");
  });

  test("the answer behind late ones to earlier requests", () => {
    const { lookup, kernel } = aKernel();
    kernel.conntrack.queue.push(message(0x0100, 0, kernel.conntrack.portId, new Uint8Array(40)));
    kernel.diag.queue.push(message(20, 0, kernel.diag.portId, new Uint8Array(72)));
    expect(lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
  });

  test("the owner after sequence numbers have gone round", () => {
    const { lookup, kernel } = aKernel();
    for (let run = 0; run < 1_000; run++) expect(lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
    expect(kernel.asked).toBe(2_000);
  });
});

describe("identify() refuses", () => {
  test("a socket whose inode is 0: it has no owner, and is not root's", () => {
    for (const uid of [0, ALICE]) {
      expect(why(aKernel([{ ...ALICES, uid, inode: 0 }]).lookup.identify(ACCEPTED))).toBe(
        "the caller's socket has no owner any more",
      );
    }
  });

  const states: [name: string, state: number][] = [
    ["SYN_SENT", 2],
    ["SYN_RECV", 3],
    ["TIME_WAIT", 6],
    ["CLOSE", 7],
    ["CLOSE_WAIT", 8],
    ["LAST_ACK", 9],
    ["CLOSING", 11],
    ["NEW_SYN_RECV", 12],
    ["a state that nobody knows", 200],
  ];
  for (const [name, state] of states) {
    test(`a socket in ${name}`, () => {
      expect(why(aKernel([{ ...ALICES, state }]).lookup.identify(ACCEPTED))).toBe(
        `the caller's socket is in TCP state ${state}`,
      );
    });
  }

  test("uid 4294967295, which is nobody's", () => {
    expect(why(aKernel([{ ...ALICES, uid: 0xffff_ffff }]).lookup.identify(ACCEPTED))).toBe(
      "the caller's socket has an invalid uid",
    );
  });

  test("a listener on the caller's port, to which the kernel's look-up falls back", () => {
    const listener = { tuple: tuple("0.0.0.0", 40_000, "0.0.0.0", 0), uid: 6_666, inode: 88, state: 10 };
    expect(why(aKernel([listener]).lookup.identify(ACCEPTED))).toBe("sock_diag answered with another socket");
  });

  test("a connection of which no socket is on this node, and says from where a redirected one came", () => {
    expect(aKernel([]).lookup.identify(ACCEPTED)).toEqual({
      kind: "refused",
      why: "no socket of this node has the connection",
      remote: address("10.77.0.2"),
    });
    const { lookup, kernel } = aKernel([]);
    kernel.entries.length = 0;
    const found = lookup.identify(ACCEPTED);
    expect(found).toEqual({ kind: "refused", why: "no socket of this node has the connection" });
  });

  const elsewhere: [name: string, original: FakeTuple][] = [
    ["the metadata address, another port", tuple("10.77.0.2", 40_000, "169.254.169.254", 8080)],
    ["another address, port 80", tuple("10.77.0.2", 40_000, "10.0.0.1", 80)],
    ["the upstream", tuple("10.77.0.2", 40_000, "169.254.0.2", 9081)],
    ["our port at another address", tuple("10.77.0.2", 40_000, "127.0.0.2", 254)],
    ["our address, another port", tuple("10.77.0.2", 40_000, "127.0.0.1", 80)],
    ["fd00:ec2::253", tuple("fd77::2", 40_000, "fd00:ec2::253", 80)],
  ];
  for (const [name, original] of elsewhere) {
    test(`a connection that was addressed to ${name}`, () => {
      const { lookup } = aKernel([{ ...ALICES, tuple: original }], original);
      expect(why(lookup.identify(ACCEPTED))).toBe(
        "the connection was addressed to neither the metadata service nor this proxy",
      );
    });
  }

  for (const [errno, name] of [
    [1, "EPERM"],
    [12, "ENOMEM"],
    [22, "EINVAL"],
    [95, "EOPNOTSUPP"],
  ] as const) {
    test(`whoever it is where connection tracking answers ${name}: an untracked connection is ENOENT alone`, () => {
      const { lookup, kernel } = aKernel([
        { ...ALICES, tuple: tuple("10.77.0.2", 50_000, "127.0.0.1", 254) },
      ]);
      kernel.conntrackErrno = errno;
      expect(why(lookup.identify(ACCEPTED))).toBe(`connection tracking: errno ${errno}`);
      expect(kernel.asked).toBe(1);
    });
    test(`whoever it is where sock_diag answers ${name}`, () => {
      const { lookup, kernel } = aKernel();
      kernel.diagErrno = errno;
      expect(why(lookup.identify(ACCEPTED))).toBe(`sock_diag: errno ${errno}`);
    });
  }

  test("the entry of another connection", () => {
    const { lookup, kernel } = aKernel();
    const others = aKernel(
      [],
      tuple("10.77.0.2", 40_001, "169.254.169.254", 80),
      tuple("127.0.0.1", 254, "10.77.0.2", 50_001),
    );
    kernel.onTheWay = (datagram, from) => {
      if (from === "diag") return [datagram];
      const sequence = new DataView(datagram.buffer).getUint32(8, true);
      others.kernel.conntrack.send(askFor(others.kernel, sequence));
      const other = others.kernel.conntrack.queue.shift() ?? new Uint8Array();
      return [other];
    };
    expect(why(lookup.identify(ACCEPTED))).toBe("the connection tracking entry is of another connection");
  });

  test("an answer that never comes", () => {
    const { lookup, kernel } = aKernel();
    kernel.onTheWay = () => [];
    expect(why(lookup.identify(ACCEPTED))).toBe("connection tracking: no answer");
    kernel.onTheWay = (datagram, from) => (from === "diag" ? [] : [datagram]);
    expect(why(lookup.identify(ACCEPTED))).toBe("sock_diag: no answer");
  });

  test("answers to earlier requests without end", () => {
    const { lookup, kernel } = aKernel();
    const stale = message(0x0100, 0, kernel.conntrack.portId, new Uint8Array(40));
    kernel.onTheWay = () => Array.from({ length: 100 }, () => stale);
    expect(why(lookup.identify(ACCEPTED))).toBe("connection tracking: only answers to earlier requests");
  });

  test("an answer that came twice is not the next one's", () => {
    const bobs = { ...ALICES, tuple: tuple("10.77.0.2", 40_001, "169.254.169.254", 80), uid: 2002 };
    const { lookup, kernel } = aKernel([ALICES, bobs]);
    kernel.entries.push({ original: bobs.tuple, reply: tuple("127.0.0.1", 254, "10.77.0.2", 50_001) });
    kernel.onTheWay = (datagram) => [datagram, datagram];
    expect(lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
    expect(lookup.identify(accepted("127.0.0.1", 254, "10.77.0.2", 50_001))).toEqual(owner(2002));
    expect(lookup.identify(ACCEPTED)).toEqual(owner(ALICE));
  });

  test("answers of types that were not asked for", () => {
    for (const type of [1, 3, 4, 20, 0x0101, 0x0102]) {
      const { lookup, kernel } = aKernel();
      kernel.onTheWay = (datagram, from) => {
        if (from === "conntrack") new DataView(datagram.buffer).setUint16(4, type, true);
        return [datagram];
      };
      expect(why(lookup.identify(ACCEPTED))).toBe(`connection tracking: unexpected message type ${type}`);
    }
    const { lookup, kernel } = aKernel();
    kernel.onTheWay = (datagram, from) => {
      if (from === "diag") new DataView(datagram.buffer).setUint16(4, 18, true);
      return [datagram];
    };
    expect(why(lookup.identify(ACCEPTED))).toBe("sock_diag: unexpected message type 18");
  });

  test("whatever throws on the way", () => {
    const broken = {
      portId: 1,
      send: () => {
        throw new Error("sendto: errno 105");
      },
      receive: () => null,
    };
    expect(why(new SocketLookup({ diag: broken, conntrack: broken }).identify(ACCEPTED))).toBe(
      "the kernel could not be asked: sendto: errno 105",
    );
  });
});

describe("no damaged answer makes an owner", () => {
  const random = randomBytesFrom(fuzzSeed);
  const pick = (below: number): number => {
    const [a = 0, b = 0, c = 0] = random(3);
    return (a * 65_536 + b * 256 + c) % below;
  };

  test("cut at any length: refused", () => {
    for (const part of ["conntrack", "diag"] as const) {
      for (let length = 0; length < 250; length++) {
        const { lookup, kernel } = aKernel();
        let whole = 0;
        kernel.onTheWay = (datagram, from) => {
          if (from !== part) return [datagram];
          whole = datagram.length;
          return [datagram.slice(0, length)];
        };
        const found = lookup.identify(ACCEPTED);
        expect([part, length, found.kind]).toEqual([part, length, length >= whole ? "owner" : "refused"]);
      }
    }
  });

  test("followed by anything: refused", () => {
    for (const part of ["conntrack", "diag"] as const) {
      for (const more of [4, 16, 72, 100]) {
        const { lookup, kernel } = aKernel();
        kernel.onTheWay = (datagram, from) => [
          from === part ? concat(datagram, new Uint8Array(more)) : datagram,
        ];
        expect(why(lookup.identify(ACCEPTED))).toContain("more than one message");
      }
    }
  });

  test("every bit turned: the right owner, or a refusal, or what the turned bit itself says", () => {
    for (const part of ["conntrack", "diag"] as const) {
      for (let bit = 0; ; bit++) {
        const { lookup, kernel } = aKernel();
        let past = false;
        kernel.onTheWay = (datagram, from) => {
          if (from !== part) return [datagram];
          past = bit >= datagram.length * 8;
          if (!past) datagram[bit >> 3] = (datagram[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          return [datagram];
        };
        const found = lookup.identify(ACCEPTED);
        if (past) break;
        if (found.kind === "refused") continue;
        // idiag_uid, offset 16 + 64 of the datagram: what the kernel says there is what we believe.
        const isUid = part === "diag" && bit >> 3 >= 80 && bit >> 3 < 84;
        expect([part, bit, found.owner.uid === ALICE || isUid]).toEqual([part, bit, true]);
      }
    }
  });

  test(`random damage (seed ${fuzzSeed}): never another's uid, and it never throws`, () => {
    const bobs: FakeSocket = {
      ...ALICES,
      tuple: tuple("10.77.0.2", 40_001, "169.254.169.254", 80),
      uid: 2002,
    };
    let refusals = 0;
    const runs = fuzzRuns(20_000);
    for (let run = 0; run < runs; run++) {
      const { lookup, kernel } = aKernel([ALICES, bobs]);
      kernel.entries.push({ original: bobs.tuple, reply: tuple("127.0.0.1", 254, "10.77.0.2", 50_001) });
      kernel.onTheWay = (datagram, from) => {
        if (pick(2) === 0) return [datagram];
        let bytes: Uint8Array = datagram.slice();
        for (let change = pick(3); change >= 0; change--) {
          const at = pick(bytes.length || 1);
          switch (pick(6)) {
            case 0:
              bytes = bytes.slice(0, at);
              break;
            case 1:
              bytes = concat(bytes, random(pick(30)));
              break;
            case 2:
              bytes = concat(bytes.slice(0, at), random(1 + pick(4)), bytes.slice(at));
              break;
            case 3:
              bytes = random(pick(200));
              break;
            default:
              // Not the uid's own bytes: those are the answer.
              if (bytes.length > 0 && !(from === "diag" && at >= 80 && at < 84)) bytes[at] = pick(256);
          }
        }
        return pick(8) === 0 ? [bytes, datagram] : [bytes];
      };
      const found = lookup.identify(ACCEPTED);
      if (found.kind === "refused") refusals++;
      else expect(found.owner.uid).toBe(ALICE);
    }
    expect(refusals).toBeGreaterThan(runs / 4);
  });
});

/** The request for the only entry of a kernel, with a given sequence number. */
function askFor(kernel: FakeKernel, sequence: number): Uint8Array {
  const probe = new FakeKernel();
  let request = new Uint8Array();
  const spy = {
    portId: probe.conntrack.portId,
    send: (bytes: Uint8Array) => {
      request = bytes.slice();
    },
    receive: () => null,
  };
  const [entry] = kernel.entries;
  if (entry === undefined) throw new Error("no entry");
  new SocketLookup({ diag: probe.diag, conntrack: spy }).identify({
    localAddress: entry.reply.sourceAddress,
    localPort: entry.reply.sourcePort,
    peerAddress: entry.reply.destinationAddress,
    peerPort: entry.reply.destinationPort,
  });
  new DataView(request.buffer).setUint32(8, sequence, true);
  return request;
}
