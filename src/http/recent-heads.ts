import { type BadRequest, isBad, parseRequest, type Request } from "./request.ts";

/**
 * The heads that were parsed last, with their requests. A client sends the same bytes again for as long as its token lives, and
 * to find a head costs a tenth of parsing it. A head is found by all of its bytes, so that nothing is taken for something else.
 */
export class RecentHeads {
  readonly #requests = new Map<string, Request>();
  /** Heads that were sent more than once, as they came: a hash table with one head in each slot ({@link placeOf}). */
  readonly #whole: (WholeHead | undefined)[] = new Array(PLACES).fill(undefined);

  /** @param head as {@link parseRequest} takes it. The same request may be returned again: it is not to be changed. */
  parse(head: string): Request | BadRequest {
    const known = this.#requests.get(head);
    if (known !== undefined) return known;
    const parsed = parseRequest(head);
    if (isBad(parsed) || head.length > MAX_KEPT_LENGTH) return parsed;
    if (this.#requests.size >= MAX_KEPT) this.#forgetOldest();
    this.#requests.set(head, parsed);
    return parsed;
  }

  /**
   * The head that these bytes are, with the empty line at its end and nothing behind it; null where it is not known. No text is
   * made of the bytes, which would cost three times as much as comparing them.
   */
  find(bytes: Uint8Array): WholeHead | null {
    if (bytes.length > MAX_KEPT_LENGTH) return null;
    const known = this.#whole[placeOf(bytes)];
    return known?.bytes.equals(bytes) === true ? known : null;
  }

  /**
   * Parses the head at the start of some bytes, as {@link parse} does. Where it is all that is there, and was parsed before,
   * {@link find} finds it from then on; what is sent only once pushes nothing out.
   *
   * @param end where the empty line begins.
   */
  parseBytes(bytes: Buffer, end: number): Request | BadRequest {
    const head = bytes.toString("latin1", 0, end);
    const known = this.#requests.get(head);
    if (known === undefined) return this.parse(head);
    if (end + EMPTY_LINE_LENGTH === bytes.length && bytes.length <= MAX_KEPT_LENGTH && isWhole(known)) {
      const copy = Buffer.alloc(bytes.length);
      copy.set(bytes);
      this.#whole[placeOf(copy)] = { bytes: copy, request: known };
    }
    return known;
  }

  /** A Map has its keys in the order in which they came. */
  #forgetOldest(): void {
    for (const head of this.#requests.keys()) {
      this.#requests.delete(head);
      return;
    }
  }
}

/** A head as it came, with its empty line, and the request that it is. Neither is to be changed. */
export interface WholeHead {
  readonly bytes: Buffer;
  readonly request: Request;
}

/** Whether nothing has to follow the head. */
const isWhole = ({ bodyLength, emptyChunks }: Request): boolean => bodyLength === 0 && !emptyChunks;

/** CR LF CR LF */
const EMPTY_LINE_LENGTH = 4;
/** How many heads are kept, and the longest: half a MiB, and who sends others each time takes no more. SDKs send under 1 KiB. */
const MAX_KEPT = 256;
const MAX_KEPT_LENGTH = 1_024;
/** The same for those that are found by their bytes: half a MiB. A power of two. */
const PLACES = 512;
/** How many bytes of a head are hashed. */
const SAMPLES = 16;

/**
 * The slot of a head: a hash of its length and some of its bytes (FNV-1a). A client can choose heads that share a slot. Each then replaces
 * the other and has to be parsed again, which costs time and nothing else: one is never taken for the other, since all bytes are compared.
 */
function placeOf(bytes: Uint8Array): number {
  const step = Math.max(1, Math.floor(bytes.length / SAMPLES));
  let hash = 0x811c9dc5 ^ bytes.length;
  // From the end: the token, in which heads differ, stands there.
  for (let at = bytes.length - 1 - EMPTY_LINE_LENGTH; at >= 0; at -= step) {
    hash = Math.imul(hash ^ (bytes[at] ?? 0), 0x01000193);
  }
  return (hash >>> 8) & (PLACES - 1);
}
