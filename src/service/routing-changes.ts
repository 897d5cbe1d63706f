import { readMessages } from "../firewall/nftables/batch.ts";
import { CHANGE_GROUPS, concernsWall, NETLINK_ROUTE } from "../firewall/wall/rtnetlink.ts";
import { TABLES } from "../firewall/wall/tables.ts";
import { NetlinkSocket } from "../platform/netlink-socket.ts";

/** The most messages that one call reads. The next call reads the rest. */
const MOST_DATAGRAMS = 1_000;
const OUR_TABLES: ReadonlySet<number> = new Set(Object.values(TABLES));

/**
 * Notifications from the kernel about changes of the second wall and of what it depends on: routing rules, routes of its
 * tables, interfaces and addresses.
 */
export class RoutingChanges {
  readonly #socket: NetlinkSocket;
  private constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /** Null where the kernel sends no notifications. Then only the periodic check finds changes. */
  static listen(): RoutingChanges | null {
    try {
      return new RoutingChanges(new NetlinkSocket(NETLINK_ROUTE, "changes of routing", CHANGE_GROUPS));
    } catch {
      return null;
    }
  }

  get descriptor(): number {
    return this.#socket.descriptor;
  }

  /** Reads the notifications that have arrived, and returns what they were about. */
  take(): "nothing" | "ours" | "other" {
    let heard: "nothing" | "ours" | "other" = "nothing";
    for (let count = 0; count < MOST_DATAGRAMS; count++) {
      const datagram = this.#socket.receive();
      if (datagram === null) break;
      if (heard === "ours") continue;
      const messages = readMessages(datagram) ?? [];
      heard = messages.some((message) => concernsWall(message, OUR_TABLES)) ? "ours" : "other";
    }
    return heard;
  }
}
