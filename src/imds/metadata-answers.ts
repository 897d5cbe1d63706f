import type { CategoryFilter } from "../config/categories.ts";
import { type Answer, errorPage, repeated, text } from "../http/answer.ts";
import type { UpstreamAnswer } from "../upstream/cache.ts";

/** Answers of the upstream as ours. The cache gives the same one again, for as long as it keeps it. */
const known = new WeakMap<UpstreamAnswer, Answer>();

/** What the upstream has answered, as an answer of ours. */
export function metadataAnswer(found: UpstreamAnswer): Answer {
  switch (found.kind) {
    case "found": {
      const made = known.get(found);
      if (made !== undefined) return made;
      const { body, lastModifiedMs } = found;
      const answer = repeated(lastModifiedMs === null ? text(body) : { ...text(body), lastModifiedMs });
      known.set(found, answer);
      return answer;
    }
    case "absent":
      return errorPage(404);
    case "failed":
      return errorPage(503);
  }
}

/**
 * The lines of the upstream's listing that lead to something which a caller can read.
 *
 * @param path of the directory, without the version; empty for the version's own listing.
 */
export function readableLines(listing: string, path: string, categories: CategoryFilter): string[] {
  const prefix = path === "" ? "" : `${path}/`;
  return listing.split("\n").filter((line) => {
    const name = line.trim().replace(/\/$/, "").replace(/=.*$/, "");
    return name !== "" && categories.leadsTo(`${prefix}${name}`);
  });
}
