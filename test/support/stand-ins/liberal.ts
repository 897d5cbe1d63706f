/**
 * The most obliging metadata service that one can imagine: whatever the bytes of a request might mean to some server,
 * it takes them to mean that. Nobody knows which spellings the real service accepts, so attack tests assume all. Pure.
 */

/** A path of which no segment is empty, `.` or `..`. Most are, and it is much quicker to see that than to put one together again. */
const WITHOUT_DOT_SEGMENTS = /^(?:\/(?!\.{0,2}(?:\/|$))[^/]*)+$/;

/** Each is one thing that some server somewhere does to a request target. */
const TRANSFORMS: readonly ((text: string) => string)[] = [
  (text) =>
    text.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
  (text) =>
    text.replace(/%u([0-9a-f]{4})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
  // Overlong UTF-8 of a slash and of a dot.
  (text) => text.replace(/\xc0\xaf|\xe0\x80\xaf/g, "/").replace(/\xc0\xae|\xe0\x80\xae/g, "."),
  // The halves and wide forms that normalise to ASCII.
  (text) => Buffer.from(text, "latin1").toString("utf8").normalize("NFKC"),
  (text) => text.replaceAll("\\", "/"),
  (text) => text.replaceAll("+", " "),
  (text) => text.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/]*/i, ""),
  (text) => text.replace(/^\/\/[^/]*/, ""),
  (text) => text.replace(/[?#].*$/s, ""),
  (text) => text.replace(/;[^/]*/g, ""),
  (text) => text.replace(/\0.*$/s, ""),
  (text) => text.replace(/[\x00-\x20\x7f]/g, ""),
  (text) => text.toLowerCase(),
  (text) => text.replace(/\/{2,}/g, "/"),
  (text) => {
    if (WITHOUT_DOT_SEGMENTS.test(text)) return text;
    const kept: string[] = [];
    for (const part of text.split("/")) {
      if (part === "..") kept.pop();
      else if (part !== "." && part !== "") kept.push(part);
    }
    return `/${kept.join("/")}`;
  },
  // What stands in a query or behind a fragment, as where a gateway passes `?url=…` on.
  (text) => text.replace(/^[^?#=]*[?#=]/s, ""),
];

/** More than any honest spelling has, and few enough to stay quick. */
const MOST_READINGS = 2000;

/**
 * Every text that the given ones may mean, themselves included, each once. They are made while they are taken, so that whoever looks for
 * one that means a secret, and finds it among the first, does not wait for two thousand.
 */
export function* readings(texts: readonly string[]): Generator<string> {
  const found = new Set(texts);
  // A Set is iterated in insertion order, what is added meanwhile included: the walk ends when nothing new comes.
  for (const text of found) {
    yield text;
    if (found.size <= MOST_READINGS) for (const transform of TRANSFORMS) found.add(transform(text));
  }
}

/** The secret that a text may mean, as its canonical path below the version, or null. */
export function sensitiveReading(text: string, roleName: string): string | null {
  const lower = text.toLowerCase();
  if (lower.includes("identity-credentials")) {
    return "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance";
  }
  // The role's name says nothing where it stands below a category that has no roles.
  const elsewhere = /^\/[^/]+\/(?:meta-data\/(?!iam\b)|dynamic\/)/.test(lower);
  if ((lower.includes(roleName.toLowerCase()) && !elsewhere) || lower.includes("security-credentials")) {
    return `/latest/meta-data/iam/security-credentials/${roleName}`;
  }
  if (lower.includes("user-data")) return "/latest/user-data";
  if (/pkcs7|rsa2048|signature/.test(lower)) return "/latest/dynamic/instance-identity/pkcs7";
  if (lower.includes("managed-ssh-keys")) return "/latest/meta-data/managed-ssh-keys/signer-cert";
  if (lower.includes("iam/info")) return "/latest/meta-data/iam/info";
  return null;
}
