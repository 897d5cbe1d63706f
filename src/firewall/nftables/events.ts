import { NETLINK_NETFILTER } from "../../identity/netlink/conntrack.ts";
import { NetlinkSocket } from "../../platform/libc.ts";
import { find, textOf, u32Of } from "./attributes.ts";
import { commandOf, readBody, readMessages } from "./batch.ts";
import { GEN, MSG } from "./names.ts";

/**
 * What the kernel tells of changes to nf_tables: the messages of each transaction, and at its end NFT_MSG_NEWGEN with the
 * process that made it. iptables-nft, nft, firewalld and Docker all come this way; of iptables-legacy nobody is told.
 */

/** NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h), as a bit of nl_groups. */
const NFTABLES_GROUP = 1 << (7 - 1);
/** More than that at once are read the next time. */
const MOST_MESSAGES = 1_000;

/** Who changed the rule set. */
export interface Changer {
  readonly pid: number;
  /** The task's name, at most 15 bytes (NFTA_GEN_PROC_NAME). */
  readonly name: string;
}

/** Reads the end of a transaction out of a datagram; none where there is none in it. Pure. */
export function changersIn(datagram: DataView): Changer[] {
  return (readMessages(datagram) ?? [])
    .filter((message) => commandOf(message) === MSG.NEWGEN)
    .flatMap((message) => {
      const attributes = readBody(message)?.attributes ?? [];
      const pid = u32Of(find(attributes, GEN.PROC_PID));
      const name = find(attributes, GEN.PROC_NAME);
      if (pid === null || name === undefined) return [];
      // It goes into a log: a name can hold any bytes.
      return [{ pid, name: textOf(name).replaceAll(/[^ -~]/g, "?") }];
    });
}

/** In words, for the log: `changed by nft (pid 12), iptables (pid 13)`; empty for nobody. Pure. */
export function changedByText(changers: readonly Changer[]): string {
  const MOST = 3;
  const distinct = [...new Map(changers.map((one) => [`${one.name} ${one.pid}`, one])).values()];
  if (distinct.length === 0) return "";
  const named = distinct.slice(-MOST).map(({ pid, name }) => `${name} (pid ${pid})`);
  const more = distinct.length > MOST ? ` and ${distinct.length - MOST} before` : "";
  return `changed by ${named.join(", ")}${more}`;
}

/** Hears of changes. */
export class RuleEvents {
  readonly #socket: NetlinkSocket;
  readonly #ownPid: number;

  /** @throws ImdsProxyError `missing` where the kernel has no nfnetlink. */
  constructor(ownPid: number) {
    this.#socket = new NetlinkSocket(NETLINK_NETFILTER, "changes of rules", NFTABLES_GROUP);
    this.#ownPid = ownPid;
  }

  get descriptor(): number {
    return this.#socket.descriptor;
  }

  /** Who else has changed the rule set since this was asked last; whether anybody has, where the kernel does not say who. */
  take(): { readonly changed: boolean; readonly by: readonly Changer[] } {
    const by: Changer[] = [];
    let heard = 0;
    for (; heard < MOST_MESSAGES; heard++) {
      const datagram = this.#socket.receive();
      if (datagram === null) break;
      by.push(...changersIn(datagram));
    }
    return { changed: heard > 0, by: by.filter(({ pid }) => pid !== this.#ownPid) };
  }
}
