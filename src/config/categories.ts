/**
 * The metadata categories that ordinary users may read, by their path below the version.
 * The list is closed: a category that AWS adds tomorrow is refused until someone allows it.
 * Names from the Amazon EC2 User Guide, "Instance metadata categories".
 */
export const DEFAULT_CATEGORIES: readonly string[] = [
  "dynamic/fws",
  "dynamic/instance-identity/document",
  "meta-data/ami-id",
  "meta-data/ami-launch-index",
  "meta-data/ami-manifest-path",
  "meta-data/ancestor-ami-ids",
  "meta-data/autoscaling",
  "meta-data/block-device-mapping",
  "meta-data/elastic-gpus",
  "meta-data/elastic-inference",
  "meta-data/events",
  "meta-data/hostname",
  "meta-data/instance-action",
  "meta-data/instance-id",
  "meta-data/instance-life-cycle",
  "meta-data/instance-type",
  "meta-data/ipv6",
  "meta-data/kernel-id",
  "meta-data/local-hostname",
  "meta-data/local-ipv4",
  "meta-data/mac",
  "meta-data/metrics",
  "meta-data/network",
  "meta-data/placement",
  "meta-data/product-codes",
  "meta-data/public-hostname",
  "meta-data/public-ipv4",
  "meta-data/public-keys",
  "meta-data/ramdisk-id",
  "meta-data/reservation-id",
  "meta-data/security-groups",
  "meta-data/services",
  "meta-data/spot",
  "meta-data/system",
  "meta-data/tags",
];

/** Credentials live below these; no configuration can open them. */
export const NEVER_ALLOWED: readonly string[] = ["meta-data/iam", "meta-data/identity-credentials", "api"];

/**
 * Names of what only root may read. Below an allowed category they name nothing that the service has, but nobody knows
 * how it reads `placement/user-data`, or `user-data.txt`, or `x.user-data`; so a path that has one anywhere is asked for
 * only where the configuration itself has it. The cost: a tag whose key contains one of them cannot be read.
 */
const SECRET_NAMES =
  /iam\/|security-credentials|identity-credentials|user-data|managed-ssh-keys|pkcs7|rsa2048|signature/i;

/** A server may decode `+` as a blank, and then strip it. */
const namesSecret = (path: string): boolean =>
  SECRET_NAMES.test(path) || SECRET_NAMES.test(path.replaceAll("+", ""));

/** One segment of a metadata path: what AWS allows in a tag key that the metadata service shows, and nothing else. */
export const SEGMENT = /^[A-Za-z0-9+\-=.,_:@]+$/;

/** Why the text cannot stand in `imds.allow` or `imds.deny`, or null where it can. */
export function categoryProblem(text: string): string | null {
  const segments = text.split("/");
  const roots = ["meta-data", "dynamic", "user-data"];
  if (!roots.includes(segments[0] ?? "") || segments.some((s) => !SEGMENT.test(s) || /^\.+$/.test(s))) {
    return "must be a metadata path below the version, such as meta-data/tags, dynamic/fws or user-data";
  }
  if (text === "meta-data" || text === "dynamic") {
    return `is all of ${text}: name one category below it, such as ${text}/NAME`;
  }
  const secret = NEVER_ALLOWED.find((path) => refuses(path, text));
  if (secret !== undefined) return `can never be allowed: credentials live below ${secret}`;
  return null;
}

/** The categories that stand after the configuration's `imds.allow` and `imds.deny`. */
export interface CategoryFilter {
  /** Whether the path (below the version, without slashes at its ends) may be read from the upstream. */
  allows(path: string): boolean;
  /** Whether something below the path may be read, so that the path belongs in a listing. */
  leadsTo(path: string): boolean;
  /** Whether something below a path that may be read may not be, so that its listing must be filtered. */
  hides(path: string): boolean;
}

const covers = (category: string, path: string) => path === category || path.startsWith(`${category}/`);
/** The same for denied categories, without regard to case: it is unknown whether the upstream regards it. */
const refuses = (category: string, path: string) => covers(category.toLowerCase(), path.toLowerCase());

/** Whether the path leads to credentials, which no configuration can allow. */
export const isNeverAllowed = (path: string): boolean =>
  NEVER_ALLOWED.some((category) => refuses(category, path));

/** Compiles the lists once. A deny wins over an allow, whichever is the longer. */
export function categoryFilter(allow: readonly string[], deny: readonly string[]): CategoryFilter {
  const allowed = [...DEFAULT_CATEGORIES, ...allow];
  const denied = [...NEVER_ALLOWED, ...deny];
  const allows = (path: string) =>
    allowed.some((category) => covers(category, path) && !namesSecret(path.slice(category.length))) &&
    !denied.some((category) => refuses(category, path));
  return {
    allows,
    hides: (path) => denied.some((category) => category.toLowerCase().startsWith(`${path.toLowerCase()}/`)),
    leadsTo: (path) =>
      allows(path) || allowed.some((category) => category.startsWith(`${path}/`) && allows(category)),
  };
}
