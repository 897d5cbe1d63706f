import { type Answer, type Encoding, encodeAnswer, isRepeated } from "./answer.ts";

/**
 * The bytes of answers that are given again and again (see {@link isRepeated}), kept until the second is over: then the header Date
 * is another one. To find them costs a tenth of making them.
 */
export class EncodedAnswers {
  readonly #kept = new Map<Answer, Kept>();
  /** Seconds since the epoch; all that is kept is of this one. */
  #second = 0;

  /** The same bytes as {@link encodeAnswer} gives. They are not to be changed. */
  encode(answer: Answer, encoding: Encoding): Buffer {
    if (encoding.head) return encodeAnswer(answer, encoding);
    this.forgetOld(encoding.nowMs);
    let kept = this.#kept.get(answer);
    if (kept === undefined) {
      if (!isRepeated(answer) || this.#kept.size >= MAX_KEPT) return encodeAnswer(answer, encoding);
      kept = { server: encoding.server, open: null, last: null };
      this.#kept.set(answer, kept);
    }
    if (kept.server !== encoding.server) return encodeAnswer(answer, encoding);
    if (encoding.keepAlive) {
      kept.open ??= encodeAnswer(answer, encoding);
      return kept.open;
    }
    kept.last ??= encodeAnswer(answer, encoding);
    return kept.last;
  }

  /** Forgets everything where the second is over. To be called now and then: what is kept may hold credentials. */
  forgetOld(nowMs: number): void {
    const second = Math.floor(nowMs / 1000);
    if (second === this.#second) return;
    this.#second = second;
    this.#kept.clear();
  }
}

/** The bytes of one answer, for a connection that goes on and for one that ends. */
interface Kept {
  readonly server: string;
  open: Buffer | null;
  last: Buffer | null;
}

/** How many answers are kept: two MiB, where each is a session's with a token of 1,200 bytes. */
const MAX_KEPT = 512;
