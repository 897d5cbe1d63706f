import { readMessages } from "../firewall/nftables/batch.ts";
import { TABLES } from "../firewall/wall/plan.ts";
import { CHANGE_GROUPS, concernsWall, NETLINK_ROUTE } from "../firewall/wall/rtnetlink.ts";
import { NetlinkSocket } from "../platform/libc.ts";

/** More than that at once are read the next time. */
const MOST_DATAGRAMS = 1_000;
const OUR_TABLES: ReadonlySet<number> = new Set(Object.values(TABLES));

/**
 * Changes that the second wall is made of, or depends on, as they happen: routing rules, routes of its tables, interfaces,
 * addresses.
 */
export class RoutingChanges {
  readonly #socket: NetlinkSocket;
  private constructor(socket: NetlinkSocket) {
    this.#socket = socket;
  }

  /** Null where the kernel cannot tell: there only the interval helps. */
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

  /** Takes in what has come, and says what it was about. */
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
