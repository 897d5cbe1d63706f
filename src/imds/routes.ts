import { type CategoryFilter, SEGMENT } from "../config/categories.ts";

/**
 * All routes. A request is parsed into one of them, and a request to the upstream is built from the route alone. A request
 * that parses to no route is refused. So no spelling can mean one thing to us and another to the upstream.
 */
export type Route =
  /** `/latest/api/token` */
  | { readonly kind: "token" }
  /** `/VERSION/api/token` of another version: 403, as the real service answers. */
  | { readonly kind: "token-of-version" }
  /** `…/meta-data/iam`: a listing of our own. */
  | { readonly kind: "iam-listing" }
  /** `…/meta-data/iam/info` */
  | { readonly kind: "iam-info" }
  /** `…/meta-data/iam/security-credentials` */
  | { readonly kind: "role-list" }
  /** `…/meta-data/iam/security-credentials/NAME` */
  | { readonly kind: "role-credentials"; readonly name: string }
  /** From the upstream, through the cache. */
  | {
      readonly kind: "metadata";
      /** `latest`, `1.0` or a date. */
      readonly version: string;
      /** The path below the version, of plain segments: `meta-data/placement/region`. Empty for the version's listing. */
      readonly path: string;
      /** True where the answer is a listing from which lines are removed. */
      readonly listing: boolean;
    }
  /** `/`: the versions. */
  | { readonly kind: "versions" }
  /** `/imdsproxy/whoami`: our own; no SDK asks for it and the real service has no such version. */
  | { readonly kind: "whoami" }
  /** `/imdsproxy/health`: our own, for root alone. */
  | { readonly kind: "health" }
  /** Well-formed, but not a route that is served. */
  | { readonly kind: "not-found" }
  /** A spelling that no client needs, and that is used to bypass proxies. */
  | { readonly kind: "refused-spelling"; readonly why: string };

const VERSION = /^(?:latest|1\.0|\d{4}-\d{2}-\d{2})$/;
/** How often a path may be percent-encoded. Once is usual; more than a few times is an attack. */
const MAX_DECODINGS = 8;

/** The longest target in bytes: a tag's key has 128 characters, and each can be encoded. */
const MAX_TARGET = 1_024;

const refused = (why: string): Route => ({ kind: "refused-spelling", why });
const notFound: Route = { kind: "not-found" };

/** Decodes `%XX` until nothing changes; null after {@link MAX_DECODINGS}. */
function decodeFully(text: string): string | null {
  let path = text;
  if (!path.includes("%")) return path;
  for (let pass = 0; pass < MAX_DECODINGS; pass++) {
    const decoded = path.replaceAll(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    if (decoded === path) return path;
    path = decoded;
  }
  return null;
}

/** Parses a target in origin form (`/latest/…`), query and fragment included. */
export function parseRoute(target: string, categories: CategoryFilter): Route {
  if (!target.startsWith("/")) return refused("the target is not a path");
  if (target.length > MAX_TARGET) return refused("the target is longer than 1,024 bytes");
  const end = target.search(/[?#]/);
  const path = decodeFully(end < 0 ? target : target.slice(0, end));
  if (path === null) return refused("the path is percent-encoded too many times");
  if (path.includes("%")) return refused("the path has a % that encodes nothing");
  if (/[^\x20-\x7e]/.test(path)) return refused("the path has a control character or a byte outside ASCII");
  if (/[\\;]/.test(path)) return refused("the path has a backslash or a semicolon");
  const segments = path.split("/").filter((segment) => segment !== "");
  // A dot segment has one or two dots; some servers take more of them as a way further up.
  if (segments.some((segment) => /^\.+$/.test(segment))) return refused("the path has a dot segment");

  const [version, ...rest] = segments;
  if (version === undefined) return { kind: "versions" };
  if (version === "imdsproxy")
    return rest.length === 1 && (rest[0] === "whoami" || rest[0] === "health") ? { kind: rest[0] } : notFound;
  if (!VERSION.test(version)) return notFound;
  if (rest[0] === "api") {
    if (rest.length !== 2 || rest[1] !== "token") return notFound;
    return version === "latest" ? { kind: "token" } : { kind: "token-of-version" };
  }
  if (rest[0] === "meta-data" && rest[1] === "iam") return iamRoute(rest.slice(2));
  // The metadata service has no names outside of this alphabet.
  if (!rest.every((segment) => SEGMENT.test(segment))) return notFound;
  const below = rest.join("/");
  if (categories.allows(below))
    return { kind: "metadata", version, path: below, listing: categories.hides(below) };
  if (below === "" || categories.leadsTo(below))
    return { kind: "metadata", version, path: below, listing: true };
  return notFound;
}

function iamRoute(rest: readonly string[]): Route {
  const [first, second, ...more] = rest;
  if (first === undefined) return { kind: "iam-listing" };
  if (first === "info" && second === undefined) return { kind: "iam-info" };
  if (first !== "security-credentials" || more.length > 0) return notFound;
  return second === undefined ? { kind: "role-list" } : { kind: "role-credentials", name: second };
}
