import { type Answer, isRepeated, repeated } from "../http/answer.ts";
import { ttlHeader } from "./issued-tokens.ts";

/** The most lives of tokens that are given with one kept answer: the seconds left change meanwhile. */
const MOST = 64;

/** Answers with the remaining life of the token that was used, as the metadata service gives it. */
export class RemainingLife {
  /** Answers that are given again, with the lives of the tokens that were used last. */
  readonly #made = new WeakMap<Answer, Map<number, Answer>>();

  /** The answer with this many seconds. */
  tell(answer: Answer, seconds: number): Answer {
    let made = this.#made.get(answer);
    if (made === undefined) {
      if (!isRepeated(answer)) return { ...answer, headers: ttlHeader(seconds) };
      made = new Map();
      this.#made.set(answer, made);
    }
    const known = made.get(seconds);
    if (known !== undefined) return known;
    if (made.size >= MOST) made.clear();
    const fresh = repeated({ ...answer, headers: ttlHeader(seconds) });
    made.set(seconds, fresh);
    return fresh;
  }
}
