/**
 * How a path can be spelled so that some server, somewhere, reads another one in it. Texts are Latin-1: a character is a
 * byte on the wire.
 */

/** Picks from a list by entropy that fast-check made: so that the same seed gives the same spelling, and 0 the plainest. */
export type Pick = <T>(choices: readonly T[]) => T;

/** Text in UTF-8, as Latin-1. */
export const utf8 = (text: string): string => Buffer.from(text, "utf8").toString("latin1");

const hex = (byte: number): string => byte.toString(16).padStart(2, "0");
const percent = (text: string): string => [...text].map((char) => `%${hex(char.charCodeAt(0))}`).join("");
const again = (text: string): string => text.replaceAll("%", "%25");

/** An ASCII character in UTF-8 of two, three or four bytes, which the standard forbids and some decoders take. */
function overlong(char: string, length: 2 | 3 | 4): string {
  const code = char.charCodeAt(0);
  const last = [0x80 | (code >> 6), 0x80 | (code & 0x3f)];
  if (length === 2) return String.fromCharCode(0xc0 | (code >> 6), 0x80 | (code & 0x3f));
  return String.fromCharCode(...(length === 3 ? [0xe0] : [0xf0, 0x80]), ...last);
}

/** Ways to write one character; each is read as that character by somebody. */
const CHARACTERS: readonly ((char: string) => string)[] = [
  (char) => percent(char),
  (char) => percent(char).toUpperCase(),
  (char) => again(percent(char)),
  (char) => again(again(percent(char))),
  (char) => `%25${percent(hex(char.charCodeAt(0)))}`,
  (char) => `%%3${hex(char.charCodeAt(0))[0]}${hex(char.charCodeAt(0))[1]}`,
  (char) => `%u00${hex(char.charCodeAt(0))}`,
  (char) => `%U00${hex(char.charCodeAt(0)).toUpperCase()}`,
  (char) => `%uff${hex((char.charCodeAt(0) - 0x20) & 0xff)}`,
  (char) => `\\u00${hex(char.charCodeAt(0))}`,
  (char) => `\\x${hex(char.charCodeAt(0))}`,
  (char) => `&#${char.charCodeAt(0)};`,
  (char) => `&#x${hex(char.charCodeAt(0))};`,
  (char) => overlong(char, 2),
  (char) => overlong(char, 3),
  (char) => overlong(char, 4),
  (char) => percent(overlong(char, 2)),
  (char) => percent(overlong(char, 3)),
  (char) => percent(overlong(char, 4)),
  (char) => again(percent(overlong(char, 2))),
  // The wide form, which compatibility normalisation makes narrow (Unicode, NFKC).
  (char) => utf8(String.fromCharCode(char.charCodeAt(0) + 0xfee0)),
  (char) => percent(utf8(String.fromCharCode(char.charCodeAt(0) + 0xfee0))),
  // With the eighth bit set, for those who take it off.
  (char) => String.fromCharCode(char.charCodeAt(0) | 0x80),
  (char) => percent(String.fromCharCode(char.charCodeAt(0) | 0x80)),
  // Sixteen bits, for those who keep eight.
  (char) => percent(utf8(String.fromCharCode(0x100 + char.charCodeAt(0)))),
  (char) => char.toUpperCase(),
  (char) => `${char}\0`,
  (char) => `${char}%00`,
  (char) => `${char}%0a`,
  (char) => `${char}%0d%0a`,
  (char) => `${char}%09`,
  (char) => `${char}%20`,
  (char) => `${char}+`,
  (char) => `${char}${utf8("\u200b")}`,
  (char) => `${char}%c2%ad`,
  (char) => `${char}%`,
  (char) => `\\${char}`,
];

/** What may stand for a slash, or beside one. */
const SLASHES: readonly string[] = [
  "//",
  "///",
  "/./",
  "/.//",
  "/%2e/",
  "/x/../",
  "/x/%2e%2e/",
  "/x/%252e%252e/",
  "/x/..;/",
  "/x/..%3b/",
  "/x/...//",
  "/;/",
  "/;a=b/",
  ";/",
  ";jsessionid=1/",
  "%2f",
  "%2F",
  "%252f",
  "%25252f",
  "%2f%2f",
  "/%2f",
  "%5c",
  "%255c",
  "\\",
  "/\\",
  "\\/",
  "\\\\",
  "%c0%af",
  "\xc0\xaf",
  "%e0%80%af",
  "%f0%80%80%af",
  "%uff0f",
  "%u2215",
  utf8("\uff0f"),
  utf8("\u2215"),
  utf8("\u2044"),
  percent(utf8("\uff0f")),
  "%ef%bc%8f",
  "%e2%88%95",
  "/ /",
  "/%20/",
  "/%09/",
  "/%00/",
  "/%0d/",
  "/~/",
  "/*/",
  ":",
  "/?/",
  "/#/",
  "&sol;",
];

/** Ways up, for the front of a path that is allowed. */
const UPS: readonly string[] = [
  "/..",
  "/%2e%2e",
  "/.%2e",
  "/%2E.",
  "/%252e%252e",
  "/%25252e%25252e",
  "/..;",
  "/..;x",
  "/;/..",
  "/..%00",
  "/..%2f",
  "%2f..",
  "%2f%2e%2e",
  "%252f%252e%252e",
  "\\..",
  "%5c..",
  "%5c%2e%2e",
  "/..\\",
  "/..%5c",
  "/..%c0%af",
  "/%c0%ae%c0%ae",
  "/\xc0\xae\xc0\xae",
  "/%e0%80%ae%e0%80%ae",
  "/%u002e%u002e",
  "/%uff0e%uff0e",
  utf8("/\uff0e\uff0e"),
  utf8("/\u2025"),
  "/...",
  "/....//",
  "/.%00./",
  "/..%0d",
  "/..%09",
  "/..?",
  "/..#",
  "/. .",
  "/%2e%2e%2f%2e%2e",
];

/** What can stand behind a path. */
const TAILS: readonly string[] = [
  "/",
  "//",
  "/.",
  "/..",
  "/x/..",
  "?",
  "?x=y",
  "??",
  "#",
  "#x",
  "%3f",
  "%23",
  "%3fx",
  ";",
  ";x=y",
  "%3b",
  "%00",
  "%00.txt",
  "\0",
  "%20",
  "%09",
  "%0a",
  "%0d%0aX-A:%20b",
  ".",
  "..",
  ".json",
  ".html",
  "~",
  "::$DATA",
  "%",
  "%2",
  "%zz",
  "%u",
  "*",
  "/*",
  "+",
  "&",
  "=",
  ",",
  "'",
  '"',
  "`",
  "|",
  "<",
  "{",
  "\\",
  "%5c",
  "/index.html",
  "/%2e",
];

const VERSIONS: readonly string[] = [
  "latest",
  "1.0",
  "2007-01-19",
  "2021-03-23",
  "2024-04-11",
  "9999-99-99",
  "LATEST",
  "Latest",
  "latest;",
  "lat%65st",
  "",
  ".",
  "1.0/../latest",
  "2021-03-23/../latest",
  "x",
  "imdsproxy",
  utf8("\uff12\uff10\uff12\uff11-03-23"),
  "-1",
];

/** Every path of the metadata service that gives away a secret, below its version, begun with a slash. */
export const secretPaths = (roleName: string): readonly string[] => [
  `/meta-data/iam/security-credentials/${roleName}`,
  "/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
  "/user-data",
  `/meta-data/iam/security-credentials-extended/${roleName}`,
  "/meta-data/iam/security-credentials-extended",
  "/dynamic/instance-identity/pkcs7",
  "/dynamic/instance-identity/rsa2048",
  "/dynamic/instance-identity/signature",
  "/meta-data/managed-ssh-keys/signer-cert",
  "/meta-data/managed-ssh-keys/active-keys/ec2-user",
  "/meta-data/identity-credentials/ec2/info",
  "/meta-data/iam/info",
];

/** Paths that anybody may read: where a way up begins, and what must go on working. */
const ALLOWED: readonly string[] = [
  "/latest/meta-data/placement",
  "/latest/meta-data/instance-id",
  "/latest/meta-data/tags/instance/Name",
  "/latest/dynamic/instance-identity/document",
  "/latest/api/token",
  "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole",
  "/latest/meta-data/iam/info",
  "/latest/meta-data/public-keys/0/openssh-key",
  "/imdsproxy/whoami",
  "/latest",
  "/latest/meta-data",
  "",
];

/** Rewrites some of the characters that `which` matches, each in a way of its own. */
function some(path: string, which: RegExp, rewrite: (char: string) => string, pick: Pick): string {
  const share = pick([1, 2, 3, 7]);
  let count = pick([0, 1, 2]);
  return path.replaceAll(which, (char) => (count++ % share === 0 ? rewrite(char) : char));
}

/** Families of spellings: what they make of a secret's path. */
export const PATH_FAMILIES: Readonly<Record<string, (path: string, pick: Pick) => string>> = {
  plain: (path) => path,
  slashes: (path, pick) => path.replaceAll("/", () => pick(["//", "///", "/", "////"])),
  separators: (path, pick) => some(path, /\//g, () => pick(SLASHES), pick),
  "one separator": (path, pick) => {
    const slash = pick(SLASHES);
    return path.replaceAll("/", slash.startsWith("/") ? slash : `/${slash}`).replace(/^\/?/, "/");
  },
  "dot segments": (path, pick) =>
    some(path, /\//g, () => pick(["/./", "/x/../", "/../x/../", "/%2e/", "/a/b/../../"]), pick),
  "a way up": (path, pick) => {
    const from = pick(ALLOWED);
    const up = pick(UPS);
    const depth = from.split("/").length - 1 + pick([0, -1, 1, 5]);
    return `${from}${up.repeat(Math.max(depth, 1))}${path}`;
  },
  "below what is allowed": (path, pick) =>
    `${pick(ALLOWED)}${pick(["/", "//", "", "%2f", "?", "?url=", "#", ";", "@"])}${path}`,
  "encoded letters": (path, pick) => some(path, /[a-zA-Z-]/g, (char) => pick(CHARACTERS)(char), pick),
  "one encoding": (path, pick) => {
    const way = pick(CHARACTERS);
    return some(path, pick([/[a-zA-Z]/g, /./g, /\//g, /-/g]), way, pick);
  },
  "all encoded": (path, pick) => {
    let text = `/${percent(path.slice(1))}`;
    for (let times = pick([0, 1, 2, 3, 6, 7, 8, 9, 20]); times > 0; times--) text = again(text);
    return text;
  },
  case: (path, pick) =>
    pick<(text: string) => string>([
      (text) => text.toUpperCase(),
      (text) => text.toLowerCase(),
      (text) => text.replaceAll(/\b[a-z]/g, (char) => char.toUpperCase()),
      // Letters whose lower or upper case is an ASCII one: the Kelvin sign, the long s, the dotless i.
      (text) => text.replaceAll("k", utf8("\u212a")),
      (text) => text.replaceAll("s", utf8("\u017f")),
      (text) => text.replaceAll("i", utf8("\u0131")),
      (text) => text.replaceAll("i", percent(utf8("\u0130"))),
    ])(path),
  tail: (path, pick) => path + pick(TAILS),
  "two tails": (path, pick) => path + pick(TAILS) + pick(TAILS),
  "cut by a tail": (path, pick) => {
    const at = path.lastIndexOf("/") + 1;
    return path.slice(0, at) + pick(TAILS) + path.slice(at);
  },
  "path parameters": (path, pick) =>
    path.replaceAll("/", () => pick([";/", ";a=b/", "/;x/", "/", ";a=b;c=d/", "%3b/", ";%2f/"])),
  query: (path, pick) =>
    pick([
      "/?",
      "/latest/meta-data/instance-id?",
      "/latest/meta-data/placement/?path=",
      "/?url=http://169.254.169.254",
      "/#",
    ]) + path,
  "another role's name": (path, pick) => {
    const own = "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole";
    const name = path.slice(path.lastIndexOf("/") + 1);
    const joint = pick([
      ",",
      ";",
      "%00",
      "%2c",
      "|",
      "&",
      "%0a",
      "%20",
      "/../",
      "%2f..%2f",
      "%2f",
      "\\",
      "+",
      ".",
      "?",
      "#",
      "*",
      "@",
      ":",
      "=",
    ]);
    return pick([
      `${own}${joint}${name}`,
      `${own.replace(/\/[^/]*$/, "/")}${name}${joint}ImdsProxyTestRole`,
      `${own.replace(/\/[^/]*$/, "/")}${pick(["__proto__", "constructor", "*", "%2a", "", "..", "null"])}`,
    ]);
  },
  layered: (path, pick) => {
    let text = path;
    for (let layers = pick([2, 3, 4]); layers > 0; layers--) {
      const names = Object.keys(PATH_FAMILIES).filter((name) => name !== "layered");
      text = PATH_FAMILIES[pick(names)]?.(text, pick) ?? text;
    }
    return text;
  },
};

/** A secret's path in full, under some version. */
export const versioned = (path: string, pick: Pick): string => {
  const version = pick(["latest", "latest", "latest", ...VERSIONS]);
  return version === "" ? path : `/${version}${path}`;
};
