import type { Subject } from "../identity/caller.ts";
import { isWithinLife, type TokenCheck, type TokenMint } from "./tokens.ts";

/** A token that was found genuine, for whom, and its end in seconds since the epoch. */
interface Genuine {
  readonly subject: Subject;
  readonly endSeconds: number;
}

/**
 * Checks the tokens of requests, and remembers with a request that its token is genuine: the same request object comes again while a
 * client sends the same bytes (http/recent-heads.ts), and the HMAC is most of what a token costs. What is remembered holds for
 * the subject that presented it, under the one key of the mint; the token's life is looked at each time. It goes with the request, so
 * that no token is in memory for longer than it would be otherwise. A token that is not good is not remembered.
 */
export class CheckedTokens {
  readonly #mint: Pick<TokenMint, "check">;
  readonly #genuine = new WeakMap<object, Genuine>();

  constructor(mint: Pick<TokenMint, "check">) {
    this.#mint = mint;
  }

  /**
   * The same as {@link TokenMint.check}.
   *
   * @param request the parsed request whose token `text` is. It is not changed afterwards.
   */
  check(request: object, text: string, subject: Subject, nowMs: number): TokenCheck {
    const nowSeconds = Math.floor(nowMs / 1000);
    const known = this.#genuine.get(request);
    if (known !== undefined && known.subject === subject) {
      const remainingSeconds = known.endSeconds - nowSeconds;
      return isWithinLife(remainingSeconds) ? { valid: true, remainingSeconds } : { valid: false };
    }
    const check = this.#mint.check(text, subject, nowMs);
    if (check.valid) this.#genuine.set(request, { subject, endSeconds: nowSeconds + check.remainingSeconds });
    return check;
  }
}
