import { HYPERPOD_AGENT, METADATA } from "../firewall/addresses.ts";
import * as is from "../firewall/limits/expressions.ts";
import { type Attribute, nest, text, u32 } from "../firewall/nftables/attributes.ts";
import { FLAG, type NftMessage } from "../firewall/nftables/batch.ts";
import {
  CHAIN,
  HOOK,
  HOOK_ATTR,
  MSG,
  NFPROTO,
  RULE,
  TABLE,
  TABLE_FLAG_OWNER,
  VERDICT,
} from "../firewall/nftables/names.ts";
import { parseAddress } from "../identity/address.ts";
import type { Endpoint } from "../identity/endpoint.ts";

/**
 * The nftables table that logs requests to the metadata service, and changes no packet: its rules have no verdict but `return`.
 * It belongs to the socket that makes it and goes away with it (`flags owner`, linux 5.12). Pure.
 */

export const TABLE_NAME = "imdsproxy_observe";

/**
 * Before the limits of connections and other programs' rules at `raw` (-300), and with them before connection tracking and
 * every redirect: the destination is what the caller asked for.
 */
export const PRIORITY = -310;

/** The watched addresses: the metadata service in both families, and HyperPod's agent, which some programs ask directly. */
export const WATCHED: readonly Endpoint[] = [METADATA.ipv4, METADATA.ipv6, HYPERPOD_AGENT];

/**
 * Bytes of each packet: enough for a request's head, which is where the token is looked for. The kernel's own limit of a message
 * (NLMSG_GOODSIZE) is above it.
 */
export const SNAPLEN = 1_024;

/**
 * A packet that is not longer has no data: it has an IP header without options, and a TCP header with timestamps. The length is that
 * in the IP header, which leaves out the 40 bytes of the header in IPv6. Acknowledgements with SACK blocks are longer, and are logged
 * though they have no data.
 */
const WITHOUT_DATA = { ipv4: 52, ipv6: 32 } as const;

interface ObserveRule {
  /** As nft(8) prints it. */
  readonly text: string;
  readonly expressions: readonly Attribute[];
}

interface ObserveChain {
  readonly name: string;
  readonly hook: number;
  readonly rules: readonly ObserveRule[];
}

/** The chains: one for this node's own packets, one for those of bridged containers, which arrive by another interface. */
export function observeChains(group: number): readonly ObserveChain[] {
  const logged = WATCHED.flatMap((endpoint) => rulesFor(endpoint, group));
  return [
    { name: "output", hook: HOOK.LOCAL_OUT, rules: logged },
    {
      name: "prerouting",
      hook: HOOK.PRE_ROUTING,
      rules: logged.map((rule) => ({
        text: `iif != "lo" ${rule.text}`,
        expressions: [...is.notFromLoopback, ...rule.expressions],
      })),
    },
  ];
}

function rulesFor({ address, port }: Endpoint, group: number): ObserveRule[] {
  const bytes = parseAddress(address);
  if (bytes === null) throw new Error(`${address} is no address`);
  const [family, ip] = bytes.length === 4 ? (["ipv4", "ip"] as const) : (["ipv6", "ip6"] as const);
  const log = `log group ${group} snaplen ${SNAPLEN} queue-threshold 1`;
  const length = WITHOUT_DATA[family];
  return [
    {
      text: `${ip} daddr ${address} tcp dport ${port} tcp flags syn / syn,ack ${log} return`,
      expressions: [...is.synTo(bytes, port), is.logTo(group, SNAPLEN), is.goBack],
    },
    {
      text: `${ip} daddr ${address} tcp dport ${port} ${ip} length > ${length} ${log}`,
      expressions: [...is.tcpTo(bytes, port), ...is.longerThan(family, length), is.logTo(group, SNAPLEN)],
    },
  ];
}

const message = (command: number, flags: number, ...attributes: readonly Attribute[]): NftMessage => ({
  command,
  family: NFPROTO.INET,
  flags,
  attributes,
});

/**
 * Makes the table, in one transaction.
 *
 * @param owned whether it goes away with the socket; a kernel before 5.12 refuses that.
 */
export function createMessages(group: number, owned: boolean): NftMessage[] {
  const chains = observeChains(group);
  return [
    message(
      MSG.NEWTABLE,
      FLAG.CREATE | FLAG.EXCL,
      text(TABLE.NAME, TABLE_NAME),
      ...(owned ? [u32(TABLE.FLAGS, TABLE_FLAG_OWNER)] : []),
    ),
    ...chains.map(({ name, hook }) =>
      message(
        MSG.NEWCHAIN,
        FLAG.CREATE,
        text(CHAIN.TABLE, TABLE_NAME),
        text(CHAIN.NAME, name),
        nest(CHAIN.HOOK, u32(HOOK_ATTR.HOOKNUM, hook), u32(HOOK_ATTR.PRIORITY, PRIORITY >>> 0)),
        u32(CHAIN.POLICY, VERDICT.ACCEPT),
        text(CHAIN.TYPE, "filter"),
      ),
    ),
    ...chains.flatMap(({ name, rules }) =>
      rules.map(({ expressions }) =>
        message(
          MSG.NEWRULE,
          FLAG.CREATE | FLAG.APPEND,
          text(RULE.TABLE, TABLE_NAME),
          text(RULE.CHAIN, name),
          nest(RULE.EXPRESSIONS, ...expressions),
        ),
      ),
    ),
  ];
}

/** Deletes the table. The kernel answers ENOENT where there is none, EPERM where it is another process's. */
export const removeMessages = (): NftMessage[] => [message(MSG.DELTABLE, 0, text(TABLE.NAME, TABLE_NAME))];
