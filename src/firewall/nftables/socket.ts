import { ImdsProxyError } from "../../errors.ts";
import { NETLINK_NETFILTER } from "../../identity/netlink/conntrack.ts";
import { NetlinkSocket } from "../../platform/netlink-socket.ts";
import { find, u32Of } from "./attributes.ts";
import {
  type BatchError,
  encodeBatch,
  encodeRequest,
  FLAG,
  type NftMessage,
  type ReadMessage,
  readBatchAnswer,
  readBody,
  readDumpPart,
} from "./batch.ts";
import { GEN, MSG, NFPROTO } from "./names.ts";

/**
 * The edge to nf_tables: one netlink socket. The kernel answers each request before sendto(2) or recvfrom(2) returns, so
 * nothing here waits, starts a process or needs a thread.
 */

const ENOENT = 2;
/** The most bytes of a batch: net.core.wmem_default, 212,992 by default, limits what one message may have. */
const DEFAULT_ROOM = 100_000;
/** Attempts to read a dump, where other programs change the rule set meanwhile. */
const DUMP_TRIES = 50;

/** The kernel refused a batch or a request, and did nothing of it. */
export class NftError extends Error {
  readonly errors: readonly BatchError[];
  constructor(what: string, errors: readonly BatchError[]) {
    super(
      `nf_tables: ${what}: ${errors.map(({ index, errno }) => (index < 0 ? `errno ${errno}` : `message ${index}: errno ${errno}`)).join(", ") || "no answer"}`,
    );
    this.errors = errors;
  }
  has(errno: number): boolean {
    return this.errors.some((error) => error.errno === errno);
  }
}

export class NftSocket {
  readonly #socket: NetlinkSocket;
  #sequence = 1;

  /** @throws ImdsProxyError `missing` where there is no nfnetlink. */
  constructor() {
    this.#socket = new NetlinkSocket(NETLINK_NETFILTER, "nf_tables");
  }

  close(): void {
    this.#socket.close();
  }

  #next(count: number): number {
    const sequence = this.#sequence;
    this.#sequence = (this.#sequence + count + 2) % 0x7fff_0000;
    return sequence;
  }

  /** Reads all messages that have arrived, including answers to earlier requests. */
  #receiveAll(): DataView[] {
    const datagrams: DataView[] = [];
    for (let one = this.#socket.receive(); one !== null; one = this.#socket.receive()) {
      // The socket has one buffer.
      datagrams.push(
        new DataView(one.buffer.slice(one.byteOffset, one.byteOffset + one.byteLength) as ArrayBuffer),
      );
    }
    return datagrams;
  }

  /**
   * Runs a transaction.
   *
   * @param generation what {@link generation} said before; where the rule set changed since, it fails with ERESTART.
   * @throws NftError where the kernel refused: then nothing was done.
   */
  transact(messages: readonly NftMessage[], generation: number | null = null): void {
    if (messages.length === 0) return;
    const sequence = this.#next(messages.length);
    this.#receiveAll();
    const batch = encodeBatch(messages, sequence, generation);
    if (batch.length > DEFAULT_ROOM) this.#socket.makeRoom(batch.length);
    this.#socket.send(batch);
    const { acknowledged, errors } = readBatchAnswer(this.#receiveAll(), sequence, messages.length);
    if (errors.length > 0 || !acknowledged) throw new NftError("the kernel refused a change", errors);
  }

  /**
   * Lists all objects of a GET command; none where the requested table or chain does not exist.
   *
   * @throws NftError
   */
  dump(command: number, family: number, attributes: NftMessage["attributes"] = []): ReadMessage[] {
    for (let attempt = 0; attempt < DUMP_TRIES; attempt++) {
      const found = this.#dumpOnce(command, family, attributes);
      if (found !== null) return found;
    }
    throw new ImdsProxyError(
      "command-failed",
      `the nf_tables rule set was changed by others in each of ${DUMP_TRIES} attempts to read it`,
      "find out what rewrites it (nft monitor) and try again",
    );
  }

  #dumpOnce(command: number, family: number, attributes: NftMessage["attributes"]): ReadMessage[] | null {
    const sequence = this.#next(0);
    this.#receiveAll();
    this.#socket.send(encodeRequest({ command, family, flags: FLAG.DUMP, attributes }, sequence));
    const objects: ReadMessage[] = [];
    while (true) {
      const datagrams = this.#receiveAll();
      if (datagrams.length === 0) throw new NftError(`no answer to a dump of ${command}`, []);
      for (const datagram of datagrams) {
        const part = readDumpPart(datagram, sequence);
        if (part.kind === "interrupted") return null;
        if (part.kind === "malformed") throw new NftError(`a damaged answer to a dump of ${command}`, []);
        if (part.kind === "error") {
          if (part.errno === ENOENT) return [];
          throw new NftError(`a dump of ${command}`, [{ index: -1, errno: part.errno }]);
        }
        objects.push(...part.objects);
        if (part.done) return objects;
      }
    }
  }

  /** NFTA_GEN_ID: changes with every transaction in the network namespace, by any process. */
  generation(): number {
    const sequence = this.#next(0);
    this.#receiveAll();
    this.#socket.send(
      encodeRequest({ command: MSG.GETGEN, family: NFPROTO.UNSPEC, flags: 0, attributes: [] }, sequence),
    );
    for (const datagram of this.#receiveAll()) {
      const part = readDumpPart(datagram, sequence);
      const [message] = part.kind === "objects" ? part.objects : [];
      const id = u32Of(find((message && readBody(message)?.attributes) ?? [], GEN.ID));
      if (id !== null) return id;
    }
    throw new NftError("no generation", []);
  }
}
