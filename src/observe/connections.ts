import { addressText } from "../identity/address.ts";
import type { Tuple } from "../identity/netlink/inet-diag.ts";
import type { Segment } from "./packet.ts";
import { parseRequest, type SeenRequest, UNKNOWN_REQUEST } from "./request.ts";

/** Follows connections, so that a retransmission is not counted again. Pure. */

/** A connection, with a value that the caller of {@link Connections.note} attaches to it. */
export interface Connection<T> {
  /** Null until that caller sets it. */
  kept: T | null;
  /** The sequence number that new data begin with. */
  next: number;
  /** The sequence number of the SYN; null where the connection was open before. */
  readonly begun: number | null;
  hasData: boolean;
}

/** What a segment is: the beginning of a connection, of a request, or of both (TCP Fast Open). */
export interface Noted<T> {
  readonly connection: Connection<T>;
  readonly opens: boolean;
  readonly request: SeenRequest | null;
}

/** The most connections in memory; the least recently used one is evicted first (LRU). */
const MOST_CONNECTIONS = 65_536;

export class Connections<T> {
  readonly #known = new Map<string, Connection<T>>();
  readonly #most: number;

  /** @param most default 65,536. */
  constructor(most = MOST_CONNECTIONS) {
    this.#most = most;
  }

  get size(): number {
    return this.#known.size;
  }

  /** Null where the segment tells nothing new: it was seen before, or continues a request. */
  note(segment: Segment): Noted<T> | null {
    const key = keyOf(segment.tuple);
    const before = this.#known.get(key);
    const opens = segment.syn && before?.begun !== segment.sequence;
    if (segment.syn && !opens && segment.dataLength === 0) return null;
    const connection = opens || before === undefined ? this.#add(key, segment) : this.#use(key, before);
    const request = segment.dataLength === 0 ? null : requestIn(connection, segment);
    return opens || request !== null ? { connection, opens, request } : null;
  }

  #add(key: string, { syn, sequence }: Segment): Connection<T> {
    this.#known.delete(key);
    if (this.#known.size >= this.#most) {
      for (const oldest of this.#known.keys()) {
        this.#known.delete(oldest);
        break;
      }
    }
    const connection: Connection<T> = {
      kept: null,
      // A SYN takes one number (RFC 9293, section 3.4).
      next: syn ? (sequence + 1) >>> 0 : sequence,
      begun: syn ? sequence : null,
      hasData: false,
    };
    this.#known.set(key, connection);
    return connection;
  }

  #use(key: string, connection: Connection<T>): Connection<T> {
    this.#known.delete(key);
    this.#known.set(key, connection);
    return connection;
  }
}

/** The request that begins with the segment's data; {@link UNKNOWN_REQUEST} where the first data of a connection begin none. */
function requestIn(connection: Connection<unknown>, segment: Segment): SeenRequest | null {
  const at = segment.syn ? (segment.sequence + 1) >>> 0 : segment.sequence;
  const end = (at + segment.dataLength) >>> 0;
  // Sequence numbers wrap: the sign of the difference says which is the later.
  if (((end - connection.next) | 0) <= 0) return null;
  const isAgain = ((at - connection.next) | 0) < 0;
  connection.next = end;
  const isFirst = !connection.hasData;
  connection.hasData = true;
  if (isAgain) return null;
  return parseRequest(segment.data) ?? (isFirst ? UNKNOWN_REQUEST : null);
}

const keyOf = ({ sourceAddress, sourcePort, destinationAddress, destinationPort }: Tuple): string =>
  `${addressText(sourceAddress)} ${sourcePort} ${addressText(destinationAddress)} ${destinationPort}`;
