import { ptr } from "bun:ffi";
import { ImdsProxyError } from "../errors.ts";
import {
  AF_NETLINK,
  ENOBUFS,
  errno,
  libc,
  MSG_DONTWAIT,
  POLLIN,
  poll,
  SO_RCVBUF,
  SO_SNDBUF,
  SOCK_CLOEXEC,
  SOCK_RAW,
  SOL_SOCKET,
} from "./socket-calls.ts";

/** Sockets of netlink(7), and a wait for their messages. */

/** struct sockaddr_nl: u16 nl_family, u16 pad, u32 nl_pid, u32 nl_groups */
const NETLINK_ADDRESS_LENGTH = 12;
const SOL_NETLINK = 270;
const NETLINK_GET_STRICT_CHK = 12;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;

/** A netlink socket that talks to the kernel alone. */
export class NetlinkSocket {
  readonly portId: number;
  readonly #descriptor: number;
  // Each array has an ArrayBuffer of its own. That does not move, so its address is taken once.
  readonly #buffer = new Uint8Array(new ArrayBuffer(16_384));
  readonly #bufferAt = ptr(this.#buffer);
  /** The message that was received last. */
  #datagram = new DataView(this.#buffer.buffer, 0, 0);
  readonly #kernel = new Uint8Array(new ArrayBuffer(NETLINK_ADDRESS_LENGTH));
  readonly #kernelAt = ptr(this.#kernel);
  readonly #sender = new DataView(new ArrayBuffer(NETLINK_ADDRESS_LENGTH));
  readonly #senderAt = ptr(this.#sender);
  readonly #senderLength = new Uint32Array(new ArrayBuffer(4));
  readonly #senderLengthAt = ptr(this.#senderLength);

  /**
   * @param protocol NETLINK_SOCK_DIAG, NETLINK_NETFILTER, … (linux/netlink.h).
   * @param groups bit mask of the multicast groups to join; default none.
   * @throws ImdsProxyError `missing` where the kernel has no such protocol, or the process may not use AF_NETLINK.
   */
  constructor(protocol: number, what: string, groups = 0) {
    this.#descriptor = libc.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (this.#descriptor < 0) {
      throw new ImdsProxyError(
        "missing",
        `cannot open a netlink socket for ${what} (errno ${errno()})`,
        "the kernel must have it (modules nf_conntrack_netlink, tcp_diag), and a sandbox must allow AF_NETLINK",
      );
    }
    new DataView(this.#kernel.buffer).setUint16(0, AF_NETLINK, true);
    const address = this.#kernel.slice();
    new DataView(address.buffer).setUint32(8, groups, true);
    const length = Uint32Array.of(NETLINK_ADDRESS_LENGTH);
    if (
      libc.bind(this.#descriptor, ptr(address), NETLINK_ADDRESS_LENGTH) !== 0 ||
      libc.getsockname(this.#descriptor, ptr(address), ptr(length)) !== 0
    ) {
      const failure = new ImdsProxyError(
        "missing",
        `cannot bind a netlink socket for ${what} (errno ${errno()})`,
        "try again; a sandbox must allow AF_NETLINK",
      );
      this.close();
      throw failure;
    }
    this.portId = new DataView(address.buffer).getUint32(4, true);
  }

  send(request: Uint8Array): void {
    const sent = libc.sendto(
      this.#descriptor,
      ptr(request),
      request.length,
      0,
      this.#kernelAt,
      NETLINK_ADDRESS_LENGTH,
    );
    if (Number(sent) !== request.length) throw new Error(`sendto: errno ${errno()}`);
  }

  /**
   * Raises the longest message that can be sent; by default it is net.core.wmem_default (netlink_sendmsg in
   * net/netlink/af_netlink.c: EMSGSIZE). More than net.core.wmem_max needs CAP_NET_ADMIN; without it, that is the limit.
   */
  makeRoom(bytes: number): void {
    // The kernel doubles the value, for its own bookkeeping (socket(7)).
    const wanted = Int32Array.of(bytes);
    if (libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_SNDBUFFORCE, ptr(wanted), 4) !== 0)
      libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_SNDBUF, ptr(wanted), 4);
  }

  /**
   * Raises the size of the receive buffer, by default net.core.rmem_default. More than net.core.rmem_max needs CAP_NET_ADMIN;
   * without it, that is the limit.
   */
  makeReceiveRoom(bytes: number): void {
    const wanted = Int32Array.of(bytes);
    if (libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_RCVBUFFORCE, ptr(wanted), 4) !== 0)
      libc.setsockopt(this.#descriptor, SOL_SOCKET, SO_RCVBUF, ptr(wanted), 4);
  }

  /**
   * Like {@link receive}, but distinguishes an overrun (ENOBUFS: the kernel dropped messages since the last call) from an empty
   * queue.
   */
  receiveOrOverrun(): DataView | "overrun" | null {
    const datagram = this.receive();
    return datagram === null && errno() === ENOBUFS ? "overrun" : datagram;
  }

  receive(): DataView | null {
    this.#senderLength[0] = NETLINK_ADDRESS_LENGTH;
    const length = Number(
      libc.recvfrom(
        this.#descriptor,
        this.#bufferAt,
        this.#buffer.length,
        MSG_DONTWAIT,
        this.#senderAt,
        this.#senderLengthAt,
      ),
    );
    if (length < 0) return null;
    // nl_pid 0 is the kernel; any other number is another process that sent to our socket.
    if (this.#sender.getUint32(4, true) !== 0) throw new Error("a process answered for the kernel");
    // The former view is used again where it fits: answers to one kind of request mostly have one length.
    if (this.#datagram.byteLength !== length) this.#datagram = new DataView(this.#buffer.buffer, 0, length);
    return this.#datagram;
  }

  /**
   * Allows a request for a list to name a part of it, such as one table of routes (NETLINK_GET_STRICT_CHK, linux 4.20; an older
   * kernel lists everything).
   */
  checkStrictly(): void {
    libc.setsockopt(this.#descriptor, SOL_NETLINK, NETLINK_GET_STRICT_CHK, ptr(Int32Array.of(1)), 4);
  }

  /** The descriptor, for {@link waitReadable}. */
  get descriptor(): number {
    return this.#descriptor;
  }

  close(): void {
    libc.close(this.#descriptor);
  }
}

/**
 * Blocks this thread until one of the descriptors is readable or has an error (poll(2)). For a process whose only task is to
 * react to events at once, without a thread.
 *
 * @param timeoutMs the longest wait in milliseconds; a signal ends it as well.
 * @returns whether a descriptor is ready.
 */
export function waitReadable(descriptors: readonly number[], timeoutMs: number): boolean {
  return poll(descriptors, POLLIN, timeoutMs).some((events) => events !== 0);
}
