import { RecentHeads } from "./recent-heads.ts";
import { type BadRequest, EMPTY_CHUNKS, isBad, MAX_HEAD_BYTES, type Request } from "./request.ts";

const HEAD_END = Buffer.from("\r\n\r\n");
const NOTHING = Buffer.alloc(0);

/** One for all connections: a client sends the same heads on its next connection. */
const heads = new RecentHeads();

/** The bytes of one connection, taken apart into requests. Bodies are discarded: no route takes one. */
export class RequestReader {
  #buffer: Buffer = NOTHING;
  /** Where the first head in the buffer ends; -1 where that is not known. */
  #headEnd = -1;
  /** Bytes that must be in the buffer where more than the head is needed: the empty chunks that it announced. */
  #needed = 0;
  /** Bytes of the last request's body that are still to be discarded. */
  #bodyLeft = 0;
  /** The request that the buffer is, where its bytes were known; null where it has to be parsed. */
  #known: Request | null = null;

  /** Whether no byte of a next request is here. */
  get isEmpty(): boolean {
    return this.#buffer.length === 0;
  }

  /** Whether no byte of a next request is here, and all of the last one is. */
  get isAtRest(): boolean {
    return this.#buffer.length === 0 && this.#bodyLeft === 0;
  }

  /**
   * Adds what was received. The bytes are copied, because Bun uses the memory of a `data` event again.
   *
   * @returns false where all of it belonged to the last request's body.
   */
  push(bytes: Buffer): boolean {
    let fresh = bytes;
    if (this.#bodyLeft > 0) {
      const discarded = Math.min(this.#bodyLeft, bytes.length);
      this.#bodyLeft -= discarded;
      fresh = bytes.subarray(discarded);
    }
    if (fresh.length === 0) return false;
    if (this.#buffer.length === 0) {
      const whole = heads.find(fresh);
      if (whole !== null) {
        this.#known = whole.request;
        this.#buffer = whole.bytes;
        this.#headEnd = whole.bytes.length - HEAD_END.length;
        return true;
      }
    }
    this.#known = null;
    this.#buffer = this.#buffer.length === 0 ? Buffer.from(fresh) : Buffer.concat([this.#buffer, fresh]);
    return true;
  }

  /** Whether {@link take} has something to give: a whole request, or a head that is too long. */
  get isReady(): boolean {
    if (this.#known !== null) return true;
    if (this.#buffer.length === 0) return false;
    if (this.#needed > 0) return this.#buffer.length >= this.#needed;
    this.#headEnd = this.#buffer.indexOf(HEAD_END);
    return this.#headEnd >= 0 || this.#buffer.length > MAX_HEAD_BYTES;
  }

  /**
   * Takes the next request out of the buffer. To be called where {@link isReady} is true.
   *
   * @returns null where the body in chunks that its head announces is not here yet: then it is not ready any more.
   */
  take(): Request | BadRequest | null {
    if (this.#known !== null) {
      const known = this.#known;
      this.clear();
      return known;
    }
    const end = this.#headEnd;
    if (end < 0 || end > MAX_HEAD_BYTES) return { status: 400, why: "the head is too long" };
    const request = heads.parseBytes(this.#buffer, end);
    if (isBad(request)) return request;
    let next = end + HEAD_END.length;
    if (request.emptyChunks) {
      const chunks = this.#buffer.toString("latin1", next, next + EMPTY_CHUNKS.length);
      if (!EMPTY_CHUNKS.startsWith(chunks)) return { status: 400, why: "a body in chunks is not taken" };
      next += EMPTY_CHUNKS.length;
      if (this.#buffer.length < next) {
        this.#needed = next;
        return null;
      }
    }
    this.#needed = 0;
    this.#headEnd = -1;
    const discarded = Math.min(request.bodyLength, this.#buffer.length - next);
    this.#bodyLeft = request.bodyLength - discarded;
    next += discarded;
    this.#buffer = next === this.#buffer.length ? NOTHING : this.#buffer.subarray(next);
    return request;
  }

  /** Forgets everything that was received. */
  clear(): void {
    this.#buffer = NOTHING;
    this.#known = null;
    this.#headEnd = -1;
    this.#needed = 0;
    this.#bodyLeft = 0;
  }
}
