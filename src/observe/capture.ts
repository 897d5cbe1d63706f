import { ImdsProxyError } from "../errors.ts";
import { find, type ReadAttribute, textOf, u32Of } from "../firewall/nftables/attributes.ts";
import { readBody } from "../firewall/nftables/batch.ts";
import { MSG, NFPROTO, TABLE } from "../firewall/nftables/names.ts";
import { NftError, NftSocket } from "../firewall/nftables/socket.ts";
import { NETLINK_NETFILTER } from "../identity/netlink/conntrack.ts";
import { NetlinkSocket, waitReadable } from "../platform/netlink-socket.ts";
import { encodeBind, type LoggedPacket, readBindAnswer, readPackets } from "./nflog.ts";
import { createMessages, removeMessages, SNAPLEN, TABLE_NAME } from "./rules.ts";

/** The edge to the kernel: the table that logs, and the socket to which it logs. */

/** NFLOG groups that are tried, one after the other: far from 0 and the other small numbers that ulogd and others use. */
const FIRST_GROUP = 25_410;
const GROUPS = 16;
/**
 * What the kernel may keep of packets that have not been read, in bytes. Each takes about 2.5 KB of it (the message's buffer and
 * struct sk_buff), so it is good for some 25,000 packets.
 */
const RECEIVE_BYTES = 64 * 1_048_576;
const EPERM = 1;
const EBUSY = 16;

/** What was read since the last call. */
export interface Captured {
  /** How many packets the kernel logged and could not deliver. */
  readonly missed: number;
  /** True where the kernel says that some were lost, and no later packet has told yet how many. */
  readonly overrun: boolean;
}

export class Capture {
  readonly #log: NetlinkSocket;
  readonly #table: NftSocket;
  readonly group: number;
  /** Whether the table goes away with this process, also where that is killed: from linux 5.12. */
  readonly owned: boolean;
  #nextSequence = 0;
  #closed = false;

  /**
   * Makes the table. A table that a killed process has left on an older kernel is removed first.
   *
   * @param options for tests: `owner: false` is what a kernel before 5.12 can do; `receiveBytes` has a default of 64 MiB.
   * @throws ImdsProxyError `missing` where the kernel has no NFLOG or no nf_tables, `unhealthy` where another process observes.
   */
  constructor({ owner = true, receiveBytes = RECEIVE_BYTES } = {}) {
    this.#log = new NetlinkSocket(NETLINK_NETFILTER, "logged packets (NFLOG)");
    this.#log.makeReceiveRoom(receiveBytes);
    this.group = bind(this.#log);
    this.#table = new NftSocket();
    try {
      sweepBy(this.#table);
      this.owned = create(this.#table, this.group, owner);
    } catch (error) {
      this.#table.close();
      this.#log.close();
      throw error;
    }
  }

  /** Blocks until a packet is there, at most `timeoutMs` milliseconds. */
  wait(timeoutMs: number): void {
    waitReadable([this.#log.descriptor], timeoutMs);
  }

  /**
   * Gives the packets that have arrived to `take`, at most `most`.
   *
   * @returns how many there were, and what was missed.
   */
  read(most: number, take: (packet: LoggedPacket) => void): Captured & { readonly read: number } {
    let missed = 0;
    let overrun = false;
    let count = 0;
    while (count < most) {
      const datagram = this.#log.receiveOrOverrun();
      if (datagram === null) break;
      if (datagram === "overrun") {
        overrun = true;
        continue;
      }
      for (const packet of readPackets(datagram)) {
        count++;
        if (packet.sequence !== null) {
          const gap = (packet.sequence - this.#nextSequence) >>> 0;
          missed += gap;
          if (gap > 0) overrun = false;
          this.#nextSequence = (packet.sequence + 1) >>> 0;
        }
        take(packet);
      }
    }
    return { missed, overrun, read: count };
  }

  /**
   * Makes the table again where somebody else has removed it: before linux 5.12 a reload of an operator's firewall with
   * `flush ruleset` does.
   *
   * @returns whether it was away. What was asked meanwhile is not known.
   * @throws ImdsProxyError `missing` where the kernel does not let it be made again.
   */
  restore(): boolean {
    // A table with an owner can be removed by nobody else.
    if (this.owned || this.#closed || tableIn(this.#table) !== null) return false;
    create(this.#table, this.group, false);
    return true;
  }

  /** Removes the table; what was logged before can still be read. Does nothing the second time. */
  stop(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#table.transact(removeMessages());
    } catch (error) {
      // Somebody else has removed it already.
      if (!(error instanceof NftError)) throw error;
    } finally {
      this.#table.close();
    }
  }

  close(): void {
    this.stop();
    this.#log.close();
  }
}

/** Binds the first group that no other process has. */
function bind(socket: NetlinkSocket): number {
  for (let offset = 0; offset < GROUPS; offset++) {
    const group = FIRST_GROUP + offset;
    const sequence = 1 + offset;
    socket.send(encodeBind(group, SNAPLEN, sequence));
    const datagram = socket.receive();
    const errno = datagram === null ? null : readBindAnswer(datagram, sequence);
    if (errno === 0) return group;
    if (errno === EPERM || errno === EBUSY) continue;
    throw new ImdsProxyError(
      "missing",
      `cannot listen to logged packets: NFLOG answered ${errno === null ? "nothing" : `errno ${errno}`}`,
      "the kernel must have NFLOG (module nfnetlink_log), and this must be root in the machine's own user namespace",
    );
  }
  throw new ImdsProxyError(
    "unhealthy",
    `the NFLOG groups ${FIRST_GROUP} to ${FIRST_GROUP + GROUPS - 1} all belong to other processes`,
    "see /proc/net/netfilter/nfnetlink_log for their port ids",
  );
}

/** @returns whether the table belongs to the socket. */
function create(socket: NftSocket, group: number, owner: boolean): boolean {
  try {
    if (owner) {
      socket.transact(createMessages(group, true));
      return true;
    }
  } catch (error) {
    if (!(error instanceof NftError)) throw error;
  }
  try {
    // A kernel before 5.12 knows no owner.
    socket.transact(createMessages(group, false));
    return false;
  } catch (error) {
    if (!(error instanceof NftError)) throw error;
    throw new ImdsProxyError(
      "missing",
      `cannot make the table inet ${TABLE_NAME}: ${error.message}`,
      "the kernel must have nf_tables with the expression log (modules nf_tables, nft_log, nf_log_syslog or nfnetlink_log)",
    );
  }
}

/**
 * Removes a table that a killed process left behind.
 *
 * @returns whether there was one.
 * @throws ImdsProxyError `unhealthy` where it belongs to a process that runs.
 */
function sweepBy(socket: NftSocket): boolean {
  const attributes = tableIn(socket);
  if (attributes === null) return false;
  const owner = u32Of(find(attributes, TABLE.OWNER));
  if (owner !== null) {
    throw new ImdsProxyError(
      "unhealthy",
      `another imdsproxy observe runs here: the table inet ${TABLE_NAME} belongs to netlink port ${owner}`,
      "wait for its end, or end it; its rules go away with it",
    );
  }
  socket.transact(removeMessages());
  return true;
}

/** What the kernel says of the table; null where it is not there. */
function tableIn(socket: NftSocket): readonly ReadAttribute[] | null {
  for (const message of socket.dump(MSG.GETTABLE, NFPROTO.INET)) {
    const attributes = readBody(message)?.attributes ?? [];
    const name = find(attributes, TABLE.NAME);
    if (name !== undefined && textOf(name) === TABLE_NAME) return attributes;
  }
  return null;
}

/** The same as a task of its own. */
export function sweep(): boolean {
  const socket = new NftSocket();
  try {
    return sweepBy(socket);
  } finally {
    socket.close();
  }
}
