import { type BadRequest, isBad, parseRequest, type Request } from "./request.ts";

/**
 * The heads that were parsed last, with their requests. A client sends the same bytes again for as long as its token lives, and
 * to find a head costs a tenth of parsing it. A head is found by all of its bytes, so that nothing is taken for something else.
 */
export class RecentHeads {
  readonly #requests = new Map<string, Request>();

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

  /** A Map has its keys in the order in which they came. */
  #forgetOldest(): void {
    for (const head of this.#requests.keys()) {
      this.#requests.delete(head);
      return;
    }
  }
}

/** How many heads are kept, and the longest: half a MiB, and who sends others each time takes no more. SDKs send under 1 KiB. */
const MAX_KEPT = 256;
const MAX_KEPT_LENGTH = 1_024;
