import { type Answer, repeated, text } from "../http/answer.ts";
import type { Subject } from "../identity/caller.ts";
import type { TokenMint } from "./tokens.ts";

/** Tells the remaining life of the token that was used, or the TTL of the one that was made. */
export const ttlHeader = (seconds: number) => ({ "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": String(seconds) });

/** The last answer with a token that a subject was given in this second. */
interface Issued {
  readonly ttlSeconds: number;
  readonly answer: Answer;
}

/** How many subjects' last answers are kept. */
const MAX_SUBJECTS = 256;

/**
 * Answers with new tokens. A token is made of its subject and of the second in which it ends ({@link TokenMint}), so who asks again within
 * the second, as the processes of a job do, would be given the same one: it is kept as long, and so are the answer's bytes
 * (http/encoded-answers.ts). Making it is most of what such a request costs.
 */
export class IssuedTokens {
  readonly #mint: Pick<TokenMint, "issue">;
  readonly #issued = new Map<Subject, Issued>();
  /** Seconds since the epoch; all that is kept is of this one. */
  #second = 0;

  constructor(mint: Pick<TokenMint, "issue">) {
    this.#mint = mint;
  }

  /** The answer with a token for one subject, good for `ttlSeconds` from now. */
  answer(subject: Subject, ttlSeconds: number, nowMs: number): Answer {
    const second = Math.floor(nowMs / 1000);
    if (second !== this.#second || this.#issued.size >= MAX_SUBJECTS) {
      this.#issued.clear();
      this.#second = second;
    }
    const known = this.#issued.get(subject);
    if (known?.ttlSeconds === ttlSeconds) return repeated(known.answer);
    const token = this.#mint.issue(subject, ttlSeconds, nowMs);
    const answer: Answer = { ...text(token), headers: ttlHeader(ttlSeconds) };
    this.#issued.set(subject, { ttlSeconds, answer });
    return answer;
  }
}
