import { NETLINK_NETFILTER } from "../../identity/netlink/conntrack.ts";
import { NetlinkSocket } from "../../platform/netlink-socket.ts";
import { find, textOf, u32Of } from "./attributes.ts";
import { commandOf, readBody, readMessages } from "./batch.ts";
import { GEN, MSG } from "./names.ts";

/**
 * The kernel's notifications about changes to nf_tables: the messages of each transaction, and at its end NFT_MSG_NEWGEN with
 * the process that made it. This covers iptables-nft, nft, firewalld and Docker. There are none for iptables-legacy.
 */

/** NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h), as a bit of nl_groups. */
const NFTABLES_GROUP = 1 << (7 - 1);
/** The most messages that one call reads. The next call reads the rest. */
const MOST_MESSAGES = 1_000;

/** Who changed the rule set. */
export interface Changer {
  readonly pid: number;
  /** The task's name, at most 15 bytes (NFTA_GEN_PROC_NAME). */
  readonly name: string;
}

/** Parses the ends of transactions in a datagram; none where it has none. Pure. */
export function changersIn(datagram: DataView): Changer[] {
  return (readMessages(datagram) ?? [])
    .filter((message) => commandOf(message) === MSG.NEWGEN)
    .flatMap((message) => {
      const attributes = readBody(message)?.attributes ?? [];
      const pid = u32Of(find(attributes, GEN.PROC_PID));
      const name = find(attributes, GEN.PROC_NAME);
      if (pid === null || name === undefined) return [];
      // A task's name may hold any bytes, and this one is logged.
      return [{ pid, name: textOf(name).replaceAll(/[^ -~]/g, "?") }];
    });
}

/** Formats the changes for the log: `changed by nft (pid 12), iptables (pid 13)`; empty for none. Pure. */
export function changedByText(changers: readonly Changer[]): string {
  const MOST = 3;
  const distinct = [...new Map(changers.map((one) => [`${one.name} ${one.pid}`, one])).values()];
  if (distinct.length === 0) return "";
  const named = distinct.slice(-MOST).map(({ pid, name }) => `${name} (pid ${pid})`);
  const more = distinct.length > MOST ? ` and ${distinct.length - MOST} before` : "";
  return `changed by ${named.join(", ")}${more}`;
}

/** Receives these notifications. */
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

  /** Which other processes have changed the rule set since the last call; where the kernel does not say which, whether any has. */
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
