import type { NetlinkChannel } from "../../src/identity/lookup.ts";

/**
 * A kernel with TCP sockets and connection tracking entries, asked over netlink. It reads requests and writes answers by
 * the kernel's own headers, with nothing of the codec that it is there to test, and refuses what the kernel refuses:
 * test/identity/netlink.test.ts holds it against answers that a real kernel gave.
 */

/** One end of a TCP connection; addresses as the socket has them. */
export interface FakeTuple {
  readonly sourceAddress: Uint8Array;
  readonly sourcePort: number;
  readonly destinationAddress: Uint8Array;
  readonly destinationPort: number;
}

/** A socket of this node. */
export interface FakeSocket {
  /** Destination 0.0.0.0:0 for a listener. */
  readonly tuple: FakeTuple;
  readonly uid: number;
  /** 0 where no file refers to it any more. */
  readonly inode: number;
  /** net/tcp_states.h; default 1, ESTABLISHED. */
  readonly state?: number;
  /** Whether an AF_INET6 socket talks IPv4 (::ffff:a.b.c.d). */
  readonly mapped?: boolean;
  /** Default none: a kernel before 5.7. */
  readonly cgroupId?: bigint;
}

/** Both directions of a tracked connection. */
export interface FakeEntry {
  readonly original: FakeTuple;
  readonly reply: FakeTuple;
}

/** linux/netlink.h, linux/netfilter/nfnetlink.h, linux/sock_diag.h */
const NLMSG_ERROR = 2;
const SOCK_DIAG_BY_FAMILY = 20;
const CT_GET = 0x0101;
const CT_NEW = 0x0100;
const AF_INET = 2;
const AF_INET6 = 10;
const NESTED = 0x8000;
const TCP_LISTEN = 10;
const ENOENT = 2;
const EINVAL = 22;

type Answer = { readonly type: number; readonly payload: Uint8Array };

/** The kernel that a test sets up. */
export class FakeKernel {
  readonly sockets: FakeSocket[] = [];
  readonly entries: FakeEntry[] = [];
  /** Set, connection tracking answers with this errno, such as 1 (EPERM) without CAP_NET_ADMIN. */
  conntrackErrno: number | null = null;
  /** Set, sock_diag answers with this errno. */
  diagErrno: number | null = null;
  /** What becomes of each datagram on its way, such as to be cut short. */
  onTheWay: (datagram: Uint8Array, from: "diag" | "conntrack") => readonly Uint8Array[] = (datagram) => [
    datagram,
  ];
  /** Requests so far. */
  asked = 0;

  readonly diag = new FakeChannel(4_711, (type, body) => this.#diag(type, body), "diag", this);
  readonly conntrack = new FakeChannel(4_712, (type, body) => this.#conntrack(type, body), "conntrack", this);

  #diag(type: number, body: DataView): Answer {
    if (type !== SOCK_DIAG_BY_FAMILY || body.byteLength < 56) return failure(EINVAL);
    if (this.diagErrno !== null) return failure(this.diagErrno);
    // struct inet_diag_req_v2, then struct inet_diag_sockid.
    const size = body.getUint8(0) === AF_INET ? 4 : 16;
    if (body.getUint8(1) !== 6) return failure(EINVAL);
    const wanted: FakeTuple = {
      sourcePort: body.getUint16(8),
      destinationPort: body.getUint16(10),
      sourceAddress: slice(body, 12, size),
      destinationAddress: slice(body, 28, size),
    };
    // __inet_lookup: the connection itself, else whoever listens at the address, else on every address.
    const listens = (socket: FakeSocket): boolean =>
      socket.state === TCP_LISTEN && socket.tuple.sourcePort === wanted.sourcePort;
    const found =
      this.sockets.find((socket) => socket.state !== TCP_LISTEN && same(socket.tuple, wanted)) ??
      this.sockets.find(
        (socket) => listens(socket) && Buffer.from(socket.tuple.sourceAddress).equals(wanted.sourceAddress),
      ) ??
      this.sockets.find(
        (socket) => listens(socket) && socket.tuple.sourceAddress.every((byte) => byte === 0),
      );
    return found === undefined ? failure(ENOENT) : { type: SOCK_DIAG_BY_FAMILY, payload: diagMessage(found) };
  }

  #conntrack(type: number, body: DataView): Answer {
    if (type !== CT_GET) return failure(EINVAL);
    if (this.conntrackErrno !== null) return failure(this.conntrackErrno);
    const tuple = attributesOf(body, 4).get(2);
    if (tuple === undefined) return failure(EINVAL);
    const wanted = tupleFrom(tuple);
    const entry = this.entries.find(({ reply }) => same(reply, wanted));
    if (entry === undefined) return failure(ENOENT);
    const family = wanted.sourceAddress.length === 4 ? AF_INET : AF_INET6;
    return {
      type: CT_NEW,
      // struct nfgenmsg, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMEOUT.
      payload: concat(
        Uint8Array.of(family, 0, 0, 0),
        attribute(1 | NESTED, tupleAttribute(entry.original)),
        attribute(2 | NESTED, tupleAttribute(entry.reply)),
        attribute(3, Uint8Array.of(0, 0, 1, 0x8e)),
        attribute(7, Uint8Array.of(0, 6, 0x97, 0x80)),
      ),
    };
  }
}

class FakeChannel implements NetlinkChannel {
  readonly portId: number;
  readonly #handle: (type: number, body: DataView) => Answer;
  readonly #from: "diag" | "conntrack";
  readonly #kernel: FakeKernel;
  /** Datagrams that wait to be received; a test may put its own here. */
  readonly queue: Uint8Array[] = [];

  constructor(
    portId: number,
    handle: (type: number, body: DataView) => Answer,
    from: "diag" | "conntrack",
    kernel: FakeKernel,
  ) {
    this.portId = portId;
    this.#handle = handle;
    this.#from = from;
    this.#kernel = kernel;
  }

  send(request: Uint8Array): void {
    this.#kernel.asked++;
    const view = new DataView(request.buffer, request.byteOffset, request.byteLength);
    const length = view.getUint32(0, true);
    const flags = view.getUint16(6, true);
    if (length !== request.length || flags !== 1) throw new Error("the kernel ignores such a request");
    const { type, payload } = this.#handle(
      view.getUint16(4, true),
      new DataView(request.buffer, request.byteOffset + 16, length - 16),
    );
    const sequence = view.getUint32(8, true);
    // An error quotes the request behind its errno.
    const body = type === NLMSG_ERROR ? concat(payload, request) : payload;
    this.queue.push(...this.#kernel.onTheWay(message(type, sequence, this.portId, body), this.#from));
  }

  receive(): DataView | null {
    const datagram = this.queue.shift();
    // A copy at an odd place in a larger buffer, as a receive buffer may have it.
    if (datagram === undefined) return null;
    const buffer = new Uint8Array(datagram.length + 7).fill(0xee);
    buffer.set(datagram, 3);
    return new DataView(buffer.buffer, 3, datagram.length);
  }
}

/** A netlink message: struct nlmsghdr and its payload. */
export function message(type: number, sequence: number, portId: number, payload: Uint8Array): Uint8Array {
  const header = new Uint8Array(16);
  const view = new DataView(header.buffer);
  view.setUint32(0, 16 + payload.length, true);
  view.setUint16(4, type, true);
  view.setUint32(8, sequence, true);
  view.setUint32(12, portId, true);
  return concat(header, payload);
}

/** struct nlattr and its payload, padded to four bytes. */
export function attribute(type: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array((4 + payload.length + 3) & ~3);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 4 + payload.length, true);
  view.setUint16(2, type, true);
  bytes.set(payload, 4);
  return bytes;
}

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** struct inet_diag_msg with the attributes that the kernel always adds, and INET_DIAG_CGROUP_ID where the socket has one. */
function diagMessage({ tuple, uid, inode, state = 1, mapped = false, cgroupId }: FakeSocket): Uint8Array {
  const bytes = new Uint8Array(72);
  const view = new DataView(bytes.buffer);
  const is4 = tuple.sourceAddress.length === 4;
  const place = (offset: number, address: Uint8Array): void => {
    if (is4 && mapped) bytes.set([0xff, 0xff, ...address], offset + 10);
    else bytes.set(address, offset);
  };
  bytes[0] = is4 && !mapped ? AF_INET : AF_INET6;
  bytes[1] = state;
  view.setUint16(4, tuple.sourcePort);
  view.setUint16(6, tuple.destinationPort);
  place(8, tuple.sourceAddress);
  place(24, tuple.destinationAddress);
  // TIME_WAIT is a small socket of its own, which knows no owner (inet_twsk_diag_fill).
  view.setUint32(64, state === 6 ? 0 : uid, true);
  view.setUint32(68, state === 6 ? 0 : inode, true);
  if (state === 6) return bytes;
  const shutdown = attribute(8, Uint8Array.of(0));
  if (cgroupId === undefined) return concat(bytes, shutdown);
  const id = new Uint8Array(8);
  new DataView(id.buffer).setBigUint64(0, cgroupId, true);
  return concat(bytes, shutdown, attribute(21, id));
}

/** CTA_TUPLE_IP and CTA_TUPLE_PROTO of a TCP tuple. */
function tupleAttribute(tuple: FakeTuple): Uint8Array {
  const first = tuple.sourceAddress.length === 4 ? 1 : 3;
  const port = (value: number) => Uint8Array.of(value >> 8, value & 0xff);
  return concat(
    attribute(
      1 | NESTED,
      concat(attribute(first, tuple.sourceAddress), attribute(first + 1, tuple.destinationAddress)),
    ),
    attribute(
      2 | NESTED,
      concat(
        attribute(1, Uint8Array.of(6)),
        attribute(2, port(tuple.sourcePort)),
        attribute(3, port(tuple.destinationPort)),
      ),
    ),
  );
}

function attributesOf(view: DataView, offset: number): Map<number, DataView> {
  const found = new Map<number, DataView>();
  for (let at = offset; at + 4 <= view.byteLength; ) {
    const length = view.getUint16(at, true);
    found.set(
      view.getUint16(at + 2, true) & 0x3fff,
      new DataView(view.buffer, view.byteOffset + at + 4, length - 4),
    );
    at += (length + 3) & ~3;
  }
  return found;
}

function tupleFrom(view: DataView): FakeTuple {
  const parts = attributesOf(view, 0);
  const ip = attributesOf(parts.get(1) ?? new DataView(new ArrayBuffer(0)), 0);
  const proto = attributesOf(parts.get(2) ?? new DataView(new ArrayBuffer(0)), 0);
  const address = (v4: number, v6: number): Uint8Array => {
    const found = ip.get(v4) ?? ip.get(v6);
    return found === undefined ? new Uint8Array() : slice(found, 0, found.byteLength);
  };
  return {
    sourceAddress: address(1, 3),
    destinationAddress: address(2, 4),
    sourcePort: proto.get(2)?.getUint16(0) ?? 0,
    destinationPort: proto.get(3)?.getUint16(0) ?? 0,
  };
}

function failure(errno: number): Answer {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, -errno, true);
  return { type: NLMSG_ERROR, payload: bytes };
}

const slice = (view: DataView, offset: number, length: number): Uint8Array =>
  new Uint8Array(view.buffer.slice(view.byteOffset + offset, view.byteOffset + offset + length));

const same = (a: FakeTuple, b: FakeTuple): boolean =>
  a.sourcePort === b.sourcePort &&
  a.destinationPort === b.destinationPort &&
  Buffer.from(a.sourceAddress).equals(b.sourceAddress) &&
  Buffer.from(a.destinationAddress).equals(b.destinationAddress);
