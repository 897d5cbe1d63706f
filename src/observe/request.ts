import { type CategoryFilter, SEGMENT } from "../config/categories.ts";
import { parseRoute } from "../imds/routes.ts";
import { knownAuthorities, originForm } from "../imds/target.ts";
import { plainText } from "./plain-text.ts";

/**
 * What the beginning of a TCP segment shows of a request to the metadata service. The bytes can have a token in them: nothing
 * but what {@link SeenRequest} has is taken from them. Pure.
 */

/** A request, as far as its first segment has it. Each text was chosen by its sender. */
export interface SeenRequest {
  /** What was asked for, by its path below the version; see {@link categoryOf}. `unknown` where the segment ends before the path does. */
  readonly category: string;
  /** Version 1 has no token. Null where the segment ends before its head does, and has no token so far. */
  readonly imdsVersion: 1 | 2 | null;
  /** The User-Agent header without what is no printable ASCII; null where there is none in the segment. */
  readonly userAgent: string | null;
}

export const UNKNOWN_CATEGORY = "unknown";
export const TOKEN_CATEGORY = "api/token";
const IAM_CATEGORY = "meta-data/iam";
export const CREDENTIALS_CATEGORY = `${IAM_CATEGORY}/security-credentials`;
export const ODD_SPELLING = "(odd spelling)";
export const OTHER_CATEGORY = "(other)";
const VERSIONS_CATEGORY = "(versions)";
const OWN_CATEGORY = "imdsproxy";

/** A request whose first line does not end within the segment: nothing is known of it. */
export const UNKNOWN_REQUEST: SeenRequest = {
  category: UNKNOWN_CATEGORY,
  imdsVersion: null,
  userAgent: null,
};

/** Methods of RFC 9110 and RFC 5789: a segment that begins otherwise continues something. */
const BEGINNING = /^(?:GET|HEAD|PUT|POST|DELETE|OPTIONS|TRACE|CONNECT|PATCH) /;
const REQUEST_LINE = /^([A-Z]+) (\S+)(?: HTTP\/\d\.\d)?\r?\n/;
const TOKEN = /^x-aws-ec2-metadata-token:/im;
const USER_AGENT = /^user-agent:[ \t]*([^\r\n]*)\r?\n/im;
const HEAD_END = /\r?\n\r?\n/;
const LONGEST_USER_AGENT = 120;

/** The request that a segment's data begins; null where the data begin with no method. */
export function parseRequest(data: Uint8Array): SeenRequest | null {
  const text = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("latin1");
  if (!BEGINNING.test(text)) return null;
  const [line = "", method = "", target = ""] = REQUEST_LINE.exec(text) ?? [];
  if (line === "") return UNKNOWN_REQUEST;
  const end = HEAD_END.exec(text);
  const head = text.slice(line.length, end === null ? text.length : end.index + end[0].length);
  const category = categoryOf(target);
  const hasToken = (method === "PUT" && category === TOKEN_CATEGORY) || TOKEN.test(head);
  const userAgent = USER_AGENT.exec(head)?.[1];
  return {
    category,
    imdsVersion: hasToken ? 2 : end === null ? null : 1,
    userAgent: userAgent === undefined ? null : plainText(userAgent.trim(), LONGEST_USER_AGENT),
  };
}

const EVERYTHING: CategoryFilter = { allows: () => true, leadsTo: () => true, hides: () => false };
const AUTHORITIES = knownAuthorities([]);
/** Parts of a path that a category has: `meta-data/placement/region`, without the names below. */
const PARTS = 3;
const LONGEST_PART = 48;
/** In place of the rest of a part; no path of the metadata service has one (SEGMENT). */
const CUT = "~";

/**
 * The category of a target: its path below the version, of at most three parts, such as `meta-data/placement/region`, or
 * `api/token`. A role's name is never part of it.
 */
export function categoryOf(target: string): string {
  const route = parseRoute(originForm(target, AUTHORITIES) ?? target, EVERYTHING);
  switch (route.kind) {
    case "token":
    case "token-of-version":
      return TOKEN_CATEGORY;
    case "iam-listing":
      return IAM_CATEGORY;
    case "iam-info":
      return `${IAM_CATEGORY}/info`;
    case "role-list":
    case "role-credentials":
      return CREDENTIALS_CATEGORY;
    case "versions":
      return VERSIONS_CATEGORY;
    case "whoami":
    case "health":
      return OWN_CATEGORY;
    case "metadata":
      return route.path === "" ? VERSIONS_CATEGORY : shortened(route.path.split("/"));
    case "refused-spelling":
      return ODD_SPELLING;
    case "not-found": {
      // Paths below iam that are no route of ours, such as `meta-data/iam/security-credentials-extended`.
      const [, ...parts] = target.split(/[?#]/)[0]?.split("/").filter(Boolean) ?? [];
      return parts[0] === "meta-data" && parts.every((part) => SEGMENT.test(part))
        ? shortened(parts)
        : OTHER_CATEGORY;
    }
  }
}

const shortened = (parts: readonly string[]): string =>
  parts
    .slice(0, PARTS)
    .map((part) => (part.length > LONGEST_PART ? `${part.slice(0, LONGEST_PART)}${CUT}` : part))
    .join("/");

/** How the proxy would answer a request for a category. */
export type CategoryOutcome = "served" | "not found" | "refused" | "unknown";

/**
 * What the proxy would answer.
 *
 * @param hasRole whether the caller gets a role; without one there is nothing below `meta-data/iam`.
 */
export function outcomeOfCategory(
  category: string,
  categories: CategoryFilter,
  hasRole: boolean,
): CategoryOutcome {
  if (category === UNKNOWN_CATEGORY || category.includes(CUT)) return "unknown";
  if (category === ODD_SPELLING) return "refused";
  if ([TOKEN_CATEGORY, VERSIONS_CATEGORY, OWN_CATEGORY].includes(category)) return "served";
  if (category === OTHER_CATEGORY) return "not found";
  const { kind } = parseRoute(`/latest/${category}`, categories);
  if (kind === "not-found") return "not found";
  if (kind === "refused-spelling") return "refused";
  return kind === "metadata" || hasRole ? "served" : "not found";
}
