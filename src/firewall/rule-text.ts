/**
 * Parses rules as iptables-save prints them. Versions and backends of iptables print the parts of a rule in different orders
 * (iptables-nft moves `-m tcp`), so rules are compared by their parts and not as text. Pure.
 */

/** An option with its values. The name of a negated option begins with `!`. */
type Option = string;

/** The parts of a rule. */
export interface ParsedRule {
  /** Options of the rule itself: -s, -d, -i, -o, -p, -f. */
  readonly base: readonly Option[];
  /** Matches (-m) by name, with their options, in order. */
  readonly matches: readonly { readonly name: string; readonly options: readonly Option[] }[];
  /** The target of -j or -g; null for a rule that only counts. */
  readonly target: string | null;
  readonly targetOptions: readonly Option[];
}

/** Splits a line as iptables-restore does: at blanks, with double quotes, and backslashes inside them. */
export function tokens(text: string): string[] {
  const found: string[] = [];
  const pattern = /"((?:[^"\\]|\\.)*)"|(\S+)/g;
  for (const match of text.matchAll(pattern)) {
    found.push(match[1] === undefined ? (match[2] ?? "") : match[1].replaceAll(/\\(.)/g, "$1"));
  }
  return found;
}

const BASE = new Map([
  ["-s", "-s"],
  ["--source", "-s"],
  ["-d", "-d"],
  ["--destination", "-d"],
  ["-i", "-i"],
  ["--in-interface", "-i"],
  ["-o", "-o"],
  ["--out-interface", "-o"],
  ["-p", "-p"],
  ["--protocol", "-p"],
  ["-f", "-f"],
]);

/** `169.254.169.254` means the same as `169.254.169.254/32`. */
function withMask(address: string): string {
  if (address.includes("/")) return address;
  return address.includes(":") ? `${address}/128` : `${address}/32`;
}

/** `990:990` means the same as `990` and `1:5` the same as `1-5`, as iptables-save has them; uid-text.ts says why they occur. */
function asRange(option: string, value: string): string {
  const [, first, last] = (/^--[ug]id-owner$/.test(option) && /^(\d+)[:-](\d+)$/.exec(value)) || [];
  if (first === undefined) return value;
  return first === last ? first : `${first}-${last}`;
}

/** Parses the text after `-A CHAIN`. */
export function parseRule(text: string): ParsedRule {
  const base: Option[] = [];
  const matches: { name: string; options: Option[] }[] = [];
  const targetOptions: Option[] = [];
  let target: string | null = null;
  let group = base;
  let negated = "";
  let values: string[] | null = null;
  let into: Option[] = base;
  const flush = () => {
    if (values === null) return;
    const [name = "", ...rest] = values;
    const plain = name.replace(/^! /, "");
    const isAddress = plain === "-s" || plain === "-d";
    into.push(
      [name, ...(isAddress ? rest.map(withMask) : rest.map((value) => asRange(plain, value)))].join(" "),
    );
    values = null;
  };
  for (const token of tokens(text)) {
    const awaitsName: boolean = values !== null && /^-[mjg]$/.test(values[0] ?? "") && values.length === 1;
    if (awaitsName) {
      if (values?.[0] === "-m") {
        const match = { name: token, options: [] };
        matches.push(match);
        group = match.options;
      } else {
        target = token;
        group = targetOptions;
      }
      values = null;
    } else if (token === "!") {
      flush();
      negated = "! ";
    } else if (/^--?[A-Za-z]/.test(token)) {
      flush();
      const short =
        token === "--match" ? "-m" : token === "--jump" ? "-j" : token === "--goto" ? "-g" : token;
      const own = BASE.get(short);
      values = [negated + (own ?? short)];
      into = own === undefined ? group : base;
      negated = "";
    } else values?.push(token);
  }
  flush();
  return { base, matches, target, targetOptions };
}

/** A canonical text: equal for two rules exactly where they match the same packets and have the same target. */
export function canonicalRule(text: string): string {
  const { base, matches, target, targetOptions } = parseRule(text);
  const sorted = (options: readonly Option[]) => [...options].sort().join(" ");
  return [
    sorted(base),
    ...matches.map(({ name, options }) => `-m ${name} ${sorted(options)}`).sort(),
    target === null ? "" : `-j ${target} ${sorted(targetOptions)}`,
  ].join(" | ");
}

/**
 * The target of a rule that redirects everybody's connections to 169.254.169.254:80 without further conditions, as the HyperPod
 * agent adds it to nat OUTPUT. A comment is ignored. Null for any other rule.
 */
export function metadataRedirect(text: string): string | null {
  const rule = parseRule(text);
  const matches = rule.matches.filter(({ name }) => name !== "comment");
  const isMetadata =
    [...rule.base].sort().join(" ") === "-d 169.254.169.254/32 -p tcp" &&
    matches.length === 1 &&
    matches[0]?.name === "tcp" &&
    matches[0].options.join(" ") === "--dport 80";
  const to = /^--to-destination (\S+)$/.exec(rule.targetOptions.join(" "));
  return isMetadata && rule.target === "DNAT" ? (to?.[1] ?? null) : null;
}
