import type { Family, Hook, TableName, WantedTable } from "../types.ts";
import {
  type Attribute,
  bytes,
  bytesOf,
  encodeAttributes,
  find,
  nest,
  text,
  textOf,
  u32,
  u32Of,
  walkAttributes,
} from "./attributes.ts";
import { FLAG, type NftMessage, rawExpression } from "./batch.ts";
import {
  CHAIN,
  CMP,
  COMPAT,
  COUNTER,
  DATA,
  EXPR,
  HOOK_ATTR,
  IMMEDIATE,
  META,
  META_KEY,
  MSG,
  NFPROTO,
  NFTA_LIST_ELEM,
  PAYLOAD,
  PAYLOAD_BASE,
  RULE,
  TABLE,
  VERDICT,
  VERDICT_ATTR,
} from "./names.ts";

/**
 * Our rules as bytes of the kernel, which can be restored without iptables. The rules of iptables-nft are rules of nf_tables,
 * and the kernel returns them (NFT_MSG_GETRULE) in the form in which it accepts them (NFT_MSG_NEWRULE). What is read while
 * the rules are right is written again when they are not: without a process or a look-up of a name, and in one transaction
 * for both tables and both families. Pure.
 */

/** A rule as bytes. */
export interface RuleBytes {
  /** The payload of NFTA_RULE_EXPRESSIONS, its counters at zero. Base64. */
  readonly expressions: string;
  /** NFTA_RULE_USERDATA, where iptables-nft keeps a comment; null where there is none. Base64. */
  readonly userdata: string | null;
}

/** A rule with its handle. */
export interface FoundRule extends RuleBytes {
  /** NFTA_RULE_HANDLE, by which it is deleted. */
  readonly handle: Uint8Array;
  /** The chain to which it jumps or goes, whatever its conditions; null for another verdict. */
  readonly jump: string | null;
}

/** The hook of a base chain (NFTA_CHAIN_HOOK); null for a chain that is only jumped to. */
export interface BaseHook {
  /** NFTA_CHAIN_TYPE: `filter`, `nat`. */
  readonly type: string;
  readonly number: number;
  /** Signed. */
  readonly priority: number;
}

export interface FoundChain {
  readonly hook: BaseHook | null;
  readonly rules: readonly FoundRule[];
}

/** The requested chains of a table, by name, as far as they exist. */
export type FoundTable = ReadonlyMap<string, FoundChain>;

/** The rules that were right when they were read, as JSON. */
export interface Snapshot {
  readonly tables: readonly SnapshotTable[];
}

interface SnapshotTable {
  readonly family: Family;
  readonly table: TableName;
  readonly chains: readonly { readonly name: string; readonly rules: readonly RuleBytes[] }[];
  /** The jumps at the first position of the base chains, and those chains, which may be missing as well. */
  readonly hooks: readonly (Hook & { readonly base: BaseHook; readonly rule: RuleBytes })[];
}

const NFPROTO_OF: Readonly<Record<Family, number>> = { ipv4: NFPROTO.IPV4, ipv6: NFPROTO.IPV6 };
const FAMILY_WORDS: Readonly<Record<Family, string>> = { ipv4: "IPv4", ipv6: "IPv6" };

const base64 = (array: Uint8Array): string => Buffer.from(array).toString("base64");
const fromBase64 = (encoded: string): Uint8Array => Uint8Array.from(Buffer.from(encoded, "base64"));
const viewOf = (array: Uint8Array): DataView =>
  new DataView(array.buffer, array.byteOffset, array.byteLength);

interface Expression {
  readonly name: string;
  readonly data: Uint8Array;
}

/** The expressions of a rule; null where they are damaged. */
function readExpressions(payload: DataView): Expression[] | null {
  const found: Expression[] = [];
  for (const { type, payload: element } of walkAttributes(payload) ?? [{ type: -1, payload }]) {
    const parts = type === NFTA_LIST_ELEM ? walkAttributes(element) : null;
    const name = parts && find(parts, EXPR.NAME);
    if (!name) return null;
    const data = find(parts, EXPR.DATA);
    found.push({ name: textOf(name), data: data === undefined ? new Uint8Array() : bytesOf(data) });
  }
  return found;
}

const NO_PACKETS = encodeAttributes([
  { type: COUNTER.BYTES, value: new Uint8Array(8) },
  { type: COUNTER.PACKETS, value: new Uint8Array(8) },
]);

/** The chain that an `immediate` expression jumps or goes to. */
function jumpOf({ name, data }: Expression): string | null {
  if (name !== "immediate") return null;
  const inside = (view: DataView | undefined, type: number) => view && find(walkAttributes(view) ?? [], type);
  const verdict = inside(inside(viewOf(data), IMMEDIATE.DATA), DATA.VERDICT);
  const code = u32Of(inside(verdict, VERDICT_ATTR.CODE));
  const chain = inside(verdict, VERDICT_ATTR.CHAIN);
  const leads = code !== null && ((code | 0) === VERDICT.JUMP || (code | 0) === VERDICT.GOTO);
  return leads && chain !== undefined ? textOf(chain) : null;
}

/** Parses the attributes of NFT_MSG_NEWRULE; null where they are damaged. */
export function readRule(attributes: NonNullable<ReturnType<typeof walkAttributes>>): FoundRule | null {
  const handle = find(attributes, RULE.HANDLE);
  const list = find(attributes, RULE.EXPRESSIONS);
  const userdata = find(attributes, RULE.USERDATA);
  const expressions = list === undefined ? [] : readExpressions(list);
  if (handle === undefined || expressions === null) return null;
  const elements = expressions.map(({ name, data }) =>
    rawExpression(name, name === "counter" ? NO_PACKETS : data),
  );
  return {
    handle: bytesOf(handle),
    expressions: base64(encodeAttributes(elements)),
    userdata: userdata === undefined ? null : base64(bytesOf(userdata)),
    jump: expressions.map(jumpOf).find((name) => name !== null) ?? null,
  };
}

/** Parses the hook in NFT_MSG_NEWCHAIN. */
export function readBaseHook(attributes: NonNullable<ReturnType<typeof walkAttributes>>): BaseHook | null {
  const hook = find(attributes, CHAIN.HOOK);
  const type = find(attributes, CHAIN.TYPE);
  const parts = hook === undefined ? null : walkAttributes(hook);
  const number = parts && u32Of(find(parts, HOOK_ATTR.HOOKNUM));
  const priority = parts && u32Of(find(parts, HOOK_ATTR.PRIORITY));
  if (type === undefined || number === null || priority === null) return null;
  return { type: textOf(type), number, priority: priority | 0 };
}

const sameRule = (a: RuleBytes, b: RuleBytes): boolean =>
  a.expressions === b.expressions && a.userdata === b.userdata;
const bare = ({ expressions, userdata }: RuleBytes): RuleBytes => ({ expressions, userdata });

/**
 * Makes a snapshot of the wanted tables.
 *
 * @returns null where a wanted chain is missing, or no plain jump to it is the first rule of its base chain.
 */
export function capture(
  wanted: readonly WantedTable[],
  found: (family: Family, table: TableName) => FoundTable,
): Snapshot | null {
  const tables: SnapshotTable[] = [];
  for (const { family, table, chains, hooks } of wanted) {
    const here = found(family, table);
    const kept: SnapshotTable["chains"][number][] = [];
    for (const { name, rules } of chains) {
      const chain = here.get(name);
      if (chain === undefined || chain.rules.length !== rules.length) return null;
      kept.push({ name, rules: chain.rules.map(bare) });
    }
    const entered: SnapshotTable["hooks"][number][] = [];
    for (const { from, to } of hooks) {
      const chain = here.get(from);
      const [first] = chain?.rules ?? [];
      if (!chain?.hook || first?.jump !== to) return null;
      entered.push({ from, to, base: chain.hook, rule: bare(first) });
    }
    tables.push({ family, table, chains: kept, hooks: entered });
  }
  return { tables };
}

/** The chains of a snapshot, by family and table. */
export const chainsOf = (snapshot: Snapshot) =>
  snapshot.tables.map(({ family, table, chains, hooks }) => ({
    family,
    table,
    chains: [...chains.map(({ name }) => name), ...hooks.map(({ from }) => from)],
  }));

/** The differences from a snapshot, and the messages that restore it. */
export interface Replay {
  /** A line for each difference; none where all is right. */
  readonly problems: readonly string[];
  readonly messages: readonly NftMessage[];
}

/** Compares the present chains with a snapshot. */
export function replay(snapshot: Snapshot, found: (family: Family, table: TableName) => FoundTable): Replay {
  const problems: string[] = [];
  const messages: NftMessage[] = [];
  for (const one of snapshot.tables) replayTable(one, found(one.family, one.table), problems, messages);
  return { problems, messages };
}

function replayTable(
  { family, table, chains, hooks }: SnapshotTable,
  here: FoundTable,
  problems: string[],
  messages: NftMessage[],
): void {
  const nfproto = NFPROTO_OF[family];
  const message = (command: number, flags: number, attributes: readonly Attribute[]) =>
    messages.push({ command, family: nfproto, flags, attributes });
  const says = (what: string) => problems.push(`${FAMILY_WORDS[family]} ${table}: ${what}`);
  const inChain = (name: string) => [text(RULE.TABLE, table), text(RULE.CHAIN, name)];
  const before = problems.length;

  const wrongChains = chains.filter(({ name, rules }) => {
    const chain = here.get(name);
    if (chain === undefined) says(`the chain ${name} is missing`);
    else if (chain.rules.length < rules.length)
      says(`the chain ${name} has lost ${countOf(rules.length - chain.rules.length)}`);
    else if (
      chain.rules.length !== rules.length ||
      !rules.every((rule, i) => sameRule(rule, chain.rules[i] ?? rule))
    )
      says(`the chain ${name} has other rules than it should`);
    else return false;
    return true;
  });
  const wrongHooks = hooks.filter(({ from, to, rule }) => {
    const jumps = (here.get(from)?.rules ?? []).filter(({ jump }) => jump === to);
    const [first] = here.get(from)?.rules ?? [];
    if (jumps.length === 0) says(`${from} does not enter ${to}`);
    else if (jumps.length > 1 || !sameRule(jumps[0] ?? rule, rule))
      says(`${from} enters ${to} ${jumps.length === 1 ? "only on a condition" : `${jumps.length} times`}`);
    else if (first?.jump !== to) says(`${from} enters ${to}, but not first`);
    else return false;
    return true;
  });
  if (problems.length === before) return;
  const nothingLeft =
    hooks.every(({ from, to }) => !here.get(from)?.rules.some(({ jump }) => jump === to)) &&
    chains.every(({ name }) => (here.get(name)?.rules.length ?? 0) === 0);
  if (nothingLeft) {
    problems.length = before;
    says("everything of ours is gone");
  }

  // Without NLM_F_EXCL, creating what exists is no error and changes nothing.
  message(MSG.NEWTABLE, FLAG.CREATE, [text(TABLE.NAME, table)]);
  for (const { name, rules } of wrongChains) {
    message(MSG.NEWCHAIN, FLAG.CREATE, [text(CHAIN.TABLE, table), text(CHAIN.NAME, name)]);
    // Without a handle: all rules of the chain.
    if (here.has(name)) message(MSG.DELRULE, 0, inChain(name));
    for (const rule of rules)
      message(MSG.NEWRULE, FLAG.CREATE | FLAG.APPEND, [...inChain(name), ...ruleAttributes(rule)]);
  }
  for (const { from, to, base, rule } of wrongHooks) {
    if (!here.has(from)) {
      message(MSG.NEWCHAIN, FLAG.CREATE, [
        text(CHAIN.TABLE, table),
        text(CHAIN.NAME, from),
        nest(CHAIN.HOOK, u32(HOOK_ATTR.HOOKNUM, base.number), u32(HOOK_ATTR.PRIORITY, base.priority >>> 0)),
        text(CHAIN.TYPE, base.type),
        // NF_ACCEPT. The former policy is lost with the chain, and we do not remember policies.
        u32(CHAIN.POLICY, VERDICT.ACCEPT),
      ]);
    }
    for (const { jump, handle } of here.get(from)?.rules ?? []) {
      if (jump === to) message(MSG.DELRULE, 0, [...inChain(from), bytes(RULE.HANDLE, handle)]);
    }
    // Without NLM_F_APPEND and a position: at the head of the chain.
    message(MSG.NEWRULE, FLAG.CREATE, [...inChain(from), ...ruleAttributes(rule)]);
  }
}

const countOf = (count: number): string => (count === 1 ? "a rule" : `${count} rules`);

function ruleAttributes({ expressions, userdata }: RuleBytes): Attribute[] {
  const encoded = fromBase64(expressions);
  const protocol = protocolOf(readExpressions(viewOf(encoded)) ?? []);
  return [
    bytes(RULE.EXPRESSIONS | 0x8000, encoded),
    // The kernel needs a rule's protocol for its x_tables extensions, and does not return it when the rule is read.
    ...(protocol === null ? [] : [nest(RULE.COMPAT, u32(COMPAT.PROTO, protocol), u32(COMPAT.FLAGS, 0))]),
    ...(userdata === null ? [] : [bytes(RULE.USERDATA, fromBase64(userdata))]),
  ];
}

/** Offsets of iphdr.protocol and ipv6hdr.nexthdr: older iptables-nft compares these, newer `meta l4proto`. */
const PROTOCOL_OFFSETS: readonly (number | null)[] = [9, 6];

/** The transport protocol of a rule, as `-p` encodes it; null where it has none. */
function protocolOf(expressions: readonly Expression[]): number | null {
  for (const [i, { name, data }] of expressions.entries()) {
    const loaded = walkAttributes(viewOf(data)) ?? [];
    const isProtocol =
      (name === "meta" && u32Of(find(loaded, META.KEY)) === META_KEY.L4PROTO) ||
      (name === "payload" &&
        u32Of(find(loaded, PAYLOAD.BASE)) === PAYLOAD_BASE.NETWORK &&
        u32Of(find(loaded, PAYLOAD.LEN)) === 1 &&
        PROTOCOL_OFFSETS.includes(u32Of(find(loaded, PAYLOAD.OFFSET))));
    const next = expressions[i + 1];
    if (!isProtocol || next?.name !== "cmp") continue;
    const compared = walkAttributes(viewOf(next.data)) ?? [];
    const value = find(
      walkAttributes(find(compared, CMP.DATA) ?? new DataView(new ArrayBuffer(0))) ?? [],
      DATA.VALUE,
    );
    if (u32Of(find(compared, CMP.OP)) === 0 && value?.byteLength === 1) return value.getUint8(0);
  }
  return null;
}

/** Checks a snapshot that was read from a file; null where it is none. Only root writes the file, but maybe an older version. */
export function asSnapshot(value: unknown): Snapshot | null {
  const isRule = (rule: RuleBytes | undefined) =>
    typeof rule?.expressions === "string" && (rule.userdata === null || typeof rule.userdata === "string");
  const snapshot = value as Snapshot | null | undefined;
  const good =
    Array.isArray(snapshot?.tables) &&
    (snapshot.tables as readonly SnapshotTable[]).every(
      (table) =>
        (table?.family === "ipv4" || table?.family === "ipv6") &&
        (table.table === "filter" || table.table === "nat") &&
        Array.isArray(table.chains) &&
        table.chains.every(
          (chain) =>
            typeof chain?.name === "string" && Array.isArray(chain.rules) && chain.rules.every(isRule),
        ) &&
        Array.isArray(table.hooks) &&
        table.hooks.every(
          (hook) =>
            typeof hook?.from === "string" &&
            typeof hook.to === "string" &&
            typeof hook.base?.type === "string" &&
            typeof hook.base.number === "number" &&
            typeof hook.base.priority === "number" &&
            isRule(hook.rule),
        ),
    );
  return good ? snapshot : null;
}
