import { ptr } from "bun:ffi";
import {
  AF_INET,
  inetName,
  ipv4Bytes,
  libc,
  MSG_NOSIGNAL,
  POLLIN,
  POLLOUT,
  pollOne,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
} from "./socket-calls.ts";

/**
 * How far the answer of a metadata service may travel. EC2 sends the answer to a request for a token with the instance's hop limit as
 * its TTL; whoever is behind a bridge needs one hop more (EC2 User Guide, "HttpPutResponseHopLimit").
 */

const IPPROTO_IP = 0;
/** ip(7): packets of the connection with a smaller TTL are dropped. */
const IP_MINTTL = 21;
/** Milliseconds. */
const LIMIT_MS = 2_000;

const REQUEST = Buffer.from(
  "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n" +
    "Content-Length: 0\r\nConnection: close\r\n\r\n",
);

/** Whether an answer to a request for a token arrives with at least this TTL. Blocks for twice the limit at most. */
function arrivesWith(ttl: number, address: string, port: number, limitMs: number): boolean {
  const descriptor = libc.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  const ready = (events: number) => (pollOne(descriptor, events, limitMs) & events) !== 0;
  try {
    const name = inetName(ipv4Bytes(address), port);
    // EINPROGRESS: poll(2) says when it is connected, or has failed.
    libc.connect(descriptor, ptr(name), name.length);
    if (!ready(POLLOUT)) return false;
    if (libc.setsockopt(descriptor, IPPROTO_IP, IP_MINTTL, ptr(Int32Array.of(ttl)), 4) !== 0) return false;
    const sent = libc.sendto(descriptor, ptr(REQUEST), REQUEST.length, MSG_NOSIGNAL, null, 0);
    if (Number(sent) !== REQUEST.length) return false;
    if (!ready(POLLIN)) return false;
    const answer = new Uint8Array(64);
    return Number(libc.recvfrom(descriptor, ptr(answer), answer.length, 0, null, null)) > 0;
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
