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
 * Our rules as the kernel has them, in bytes, so that they can be put back without iptables: iptables-nft makes rules of
 * nf_tables, which the kernel hands out (NFT_MSG_GETRULE) in the form in which it takes them (NFT_MSG_NEWRULE). What was
 * read when the rules were right is written again when they are not: no process, no look-up of a name, one transaction for
 * both tables and both families. Pure.
 */

/** A rule as bytes. */
export interface RuleBytes {
  /** The payload of NFTA_RULE_EXPRESSIONS, its counters at zero. Base64. */
  readonly expressions: string;
  /** NFTA_RULE_USERDATA, where iptables-nft keeps a comment; null where there is none. Base64. */
  readonly userdata: string | null;
}

/** A rule with its place. */
export interface FoundRule extends RuleBytes {
  /** NFTA_RULE_HANDLE, by which it is deleted. */
  readonly handle: Uint8Array;
  /** The chain to which it jumps or goes, whatever its conditions; null for another verdict. */
  readonly jump: string | null;
}

/** How a chain of the kernel's hangs in its hook (NFTA_CHAIN_HOOK); null for a chain that is only jumped to. */
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

/** The chains of a table that were asked for, by name; an absent chain is not there. */
export type FoundTable = ReadonlyMap<string, FoundChain>;

/** What was right when it was read: JSON. */
export interface Snapshot {
  readonly tables: readonly SnapshotTable[];
}

interface SnapshotTable {
  readonly family: Family;
  readonly table: TableName;
  readonly chains: readonly { readonly name: string; readonly rules: readonly RuleBytes[] }[];
  /** The jumps from the first position of the kernel's chains, and those chains, should they be gone as well. */
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

/** Reads the attributes of NFT_MSG_NEWRULE; null where it is damaged. */
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

/** Reads how the chain of NFT_MSG_NEWCHAIN hangs in its hook. */
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
 * Keeps what is there of the wanted tables.
 *
 * @returns null where something that is wanted is not there, or not entered first by one plain jump.
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

/** The chains that a snapshot is about, by family and table. */
export const chainsOf = (snapshot: Snapshot) =>
  snapshot.tables.map(({ family, table, chains, hooks }) => ({
    family,
    table,
    chains: [...chains.map(({ name }) => name), ...hooks.map(({ from }) => from)],
  }));

/** What is gone, and the messages that put it back. */
export interface Replay {
  /** For people: each thing that is not as it was; none where all is right. */
  readonly problems: readonly string[];
  readonly messages: readonly NftMessage[];
}

/** Compares what is there with what was right. */
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

  // What is there already stays: without NLM_F_EXCL that is no error.
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
        // NF_ACCEPT: whatever policy it had is gone with it, and not ours to remember.
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
    // Extensions of x_tables ask for the protocol of the rule that they are in, which nf_tables does not hand out again.
    ...(protocol === null ? [] : [nest(RULE.COMPAT, u32(COMPAT.PROTO, protocol), u32(COMPAT.FLAGS, 0))]),
    ...(userdata === null ? [] : [bytes(RULE.USERDATA, fromBase64(userdata))]),
  ];
}

/** Offsets of iphdr.protocol and ipv6hdr.nexthdr: older iptables-nft compares these, newer `meta l4proto`. */
const PROTOCOL_OFFSETS: readonly (number | null)[] = [9, 6];

/** The transport protocol that a rule compares with, as `-p` makes it; null where it names none. */
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

/** What was kept in a file, where it is one of these; only root writes it, but perhaps an older version. */
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
