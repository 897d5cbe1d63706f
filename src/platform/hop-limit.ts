import { dlopen, FFIType, ptr } from "bun:ffi";

/**
 * How far the answer of a metadata service may travel. EC2 sends the answer to a request for a token with the instance's hop limit as
 * its TTL; whoever is behind a bridge needs one hop more (EC2 User Guide, "HttpPutResponseHopLimit").
 */

const { symbols: libc } = dlopen("libc.so.6", {
  socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  connect: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  setsockopt: {
    args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i32,
  },
  poll: { args: [FFIType.ptr, FFIType.u64_fast, FFIType.i32], returns: FFIType.i32 },
  send: { args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast, FFIType.i32], returns: FFIType.i64_fast },
  recv: { args: [FFIType.i32, FFIType.ptr, FFIType.u64_fast, FFIType.i32], returns: FFIType.i64_fast },
  close: { args: [FFIType.i32], returns: FFIType.i32 },
});

const AF_INET = 2;
/** SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK */
const STREAM = 0o2004001;
const IPPROTO_IP = 0;
/** ip(7): packets of the connection with a smaller TTL are dropped. */
const IP_MINTTL = 21;
const POLLIN = 1;
const POLLOUT = 4;
const MSG_NOSIGNAL = 0x4000;
/** Milliseconds. */
const LIMIT_MS = 2_000;

const REQUEST = Buffer.from(
  "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n" +
    "Content-Length: 0\r\nConnection: close\r\n\r\n",
);

/** Whether an answer to a request for a token arrives with at least this TTL. Blocks for twice the limit at most. */
function arrivesWith(ttl: number, address: string, port: number, limitMs: number): boolean {
  const descriptor = libc.socket(AF_INET, STREAM, 0);
  if (descriptor < 0) return false;
  const ready = (events: number) => {
    const polled = new DataView(new ArrayBuffer(8));
    polled.setInt32(0, descriptor, true);
    polled.setInt16(4, events, true);
    return libc.poll(ptr(polled.buffer), 1, limitMs) > 0 && (polled.getInt16(6, true) & events) !== 0;
  };
  try {
    // struct sockaddr_in: u16 family, __be16 port, 4 bytes address, 8 of padding
    const name = new DataView(new ArrayBuffer(16));
    name.setUint16(0, AF_INET, true);
    name.setUint16(2, port, false);
    for (const [i, part] of address.split(".").entries()) name.setUint8(4 + i, Number(part));
    // EINPROGRESS: poll(2) says when it is connected, or has failed.
    libc.connect(descriptor, ptr(name.buffer), 16);
    if (!ready(POLLOUT)) return false;
    if (libc.setsockopt(descriptor, IPPROTO_IP, IP_MINTTL, ptr(Int32Array.of(ttl)), 4) !== 0) return false;
    if (Number(libc.send(descriptor, ptr(REQUEST), REQUEST.length, MSG_NOSIGNAL)) !== REQUEST.length)
      return false;
    if (!ready(POLLIN)) return false;
    const answer = new Uint8Array(64);
    return Number(libc.recv(descriptor, ptr(answer), answer.length, 0)) > 0;
  } finally {
    libc.close(descriptor);
  }
}

/**
 * 1 where the answer may travel one hop, 2 where it may travel two or more; null where nothing answers.
 *
 * @param endpoint an IPv4 address.
 * @param limitMs milliseconds for a connection, and for an answer; default 2,000.
 */
export function answerHops(
  { address, port }: { readonly address: string; readonly port: number },
  limitMs: number = LIMIT_MS,
): 1 | 2 | null {
  if (arrivesWith(2, address, port, limitMs)) return 2;
  return arrivesWith(1, address, port, limitMs) ? 1 : null;
}
