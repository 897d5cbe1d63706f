import { existsSync } from "node:fs";
import { release } from "node:os";
import { ImdsProxyError } from "../../errors.ts";
import { NetlinkSocket } from "../../platform/netlink-socket.ts";
import { type ReadMessage, readBatchAnswer, readDumpPart } from "../nftables/batch.ts";
import { FAMILIES, type Family } from "../types.ts";
import {
  decodeAddress,
  decodeLink,
  decodeRoute,
  decodeRule,
  encodeChange,
  encodeDump,
  type Listing,
  NETLINK_ROUTE,
} from "./rtnetlink.ts";
import { routeText, ruleText } from "./text.ts";
import type { Change, RoutingState } from "./types.ts";

/**
 * The edge to the kernel's routing: one rtnetlink socket. The kernel answers each request before sendto(2) or recvfrom(2)
 * returns, so nothing here waits, starts a process or needs a thread.
 */

const EPERM = 1;
const ENOENT = 2;
const ESRCH = 3;
const EEXIST = 17;
const ENODEV = 19;
const EAFNOSUPPORT = 97;
const EOPNOTSUPP = 95;
/** Errors that are none: deleting what does not exist, and adding what exists. */
const HARMLESS: Record<Change["kind"], readonly number[]> = {
  "add-rule": [],
  "add-route": [EEXIST],
  "delete-rule": [ENOENT, ESRCH],
  "delete-route": [ENOENT, ESRCH, ENODEV],
};
/** The remedy where the kernel gives no reason. */
const SEE_IP = "see what ip(8) says: ip rule; ip route show table all; and try again";
const DUMP_TRIES = 50;

/** The kernel's routing, as far as the wall uses it. Tests replace it. */
export interface RoutingKernel {
  /** The families that the kernel has. */
  readonly families: readonly Family[];
  /** Why this kernel cannot have the wall; null where it can. */
  readonly problem: string | null;
  read(tables: readonly number[]): RoutingState;
  /** Applies changes in order. @throws ImdsProxyError naming the first one that the kernel refused. */
  write(changes: readonly Change[]): void;
}

/** Rules by port and protocol exist since linux 4.17. Older kernels silently ignore these attributes of a rule. */
function tooOld(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major < 4 || (major === 4 && minor < 17);
}

/** This machine's kernel. */
export class Rtnetlink implements RoutingKernel {
  readonly families: readonly Family[];
  readonly problem: string | null;
  readonly #socket: NetlinkSocket;
  #sequence = 1;

  /**
   * @param socket default: one of this machine. It is closed where the constructor throws.
   * @throws ImdsProxyError `missing` where the process may not use AF_NETLINK, `command-failed` where the kernel lists no rules.
   */
  constructor(socket = new NetlinkSocket(NETLINK_ROUTE, "routing rules")) {
    this.#socket = socket;
    this.#socket.checkStrictly();
    // The file is missing where the kernel has no IPv6, or was started with ipv6.disable=1.
    this.families = existsSync("/proc/net/if_inet6") ? FAMILIES : ["ipv4"];
    try {
      this.problem = this.#lookForProblem();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    this.#socket.close();
  }

  #lookForProblem(): string | null {
    if (tooOld(release())) return `linux ${release()} has no routing rules by port (4.17 has)`;
    for (const family of this.families) {
      const found = this.#dump("rules", family);
      if (typeof found === "number") {
        return `this kernel has no routing rules (${family}: errno ${found}; CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)`;
      }
    }
    return null;
  }

  #next(): number {
    this.#sequence = (this.#sequence + 1) % 0x7fff_0000;
    return this.#sequence;
  }

  /** Reads all messages that have arrived. */
  #receiveAll(): DataView[] {
    const datagrams: DataView[] = [];
    for (let one = this.#socket.receive(); one !== null; one = this.#socket.receive()) {
      // The socket has one buffer.
      datagrams.push(
        new DataView(one.buffer.slice(one.byteOffset, one.byteOffset + one.byteLength) as ArrayBuffer),
      );
    }
    return datagrams;
  }

  /** Lists all objects of a kind; the kernel's error number where that fails. */
  #dump(what: Listing, family: Family | null, table = 0): ReadMessage[] | number {
    for (let attempt = 0; attempt < DUMP_TRIES; attempt++) {
      const found = this.#dumpOnce(what, family, table);
      if (found !== null) return found;
    }
    throw new ImdsProxyError(
      "command-failed",
      `the ${what} of the kernel's routing were changed by others in each of ${DUMP_TRIES} attempts to read them`,
      "find out what changes them (ip monitor) and try again",
    );
  }

  #dumpOnce(what: Listing, family: Family | null, table: number): ReadMessage[] | number | null {
    const sequence = this.#next();
    this.#receiveAll();
    this.#socket.send(encodeDump(what, family, sequence, table));
    const objects: ReadMessage[] = [];
    let interrupted = false;
    while (true) {
      const datagrams = this.#receiveAll();
      if (datagrams.length === 0) {
        throw new ImdsProxyError("command-failed", `the kernel does not list its ${what}`, SEE_IP);
      }
      for (const datagram of datagrams) {
        const part = readDumpPart(datagram, sequence);
        if (part.kind === "malformed") {
          throw new ImdsProxyError("command-failed", `the kernel's list of ${what} is damaged`, SEE_IP);
        }
        if (part.kind === "error") return part.errno;
        if (part.kind === "interrupted") {
          // The rest of the interrupted list still arrives, and is read.
          interrupted = true;
          continue;
        }
        objects.push(...part.objects);
        if (part.done) return interrupted ? null : objects;
      }
      if (interrupted) return null;
    }
  }

  #list<T>(
    what: Listing,
    family: Family | null,
    decode: (message: ReadMessage) => T | null,
    table = 0,
  ): readonly T[] {
    const found = this.#dump(what, family, table);
    if (typeof found === "number") {
      // The table has no routes yet, or the kernel does not have the family.
      if ([ENOENT, EAFNOSUPPORT, EOPNOTSUPP].includes(found)) return [];
      throw new ImdsProxyError(
        "command-failed",
        `the kernel does not list its ${what} (errno ${found})`,
        SEE_IP,
      );
    }
    return found.map(decode).filter((object) => object !== null);
  }

  read(tables: readonly number[]): RoutingState {
    const families = this.families;
    return {
      rules: families.flatMap((family) => this.#list("rules", family, decodeRule)),
      routes: families.flatMap((family) =>
        tables.flatMap((table) =>
          // Without strict checking, the kernel lists the routes of every table.
          this.#list("routes", family, decodeRoute, table).filter((route) => route.table === table),
        ),
      ),
      links: this.#list("links", null, decodeLink),
      addresses: families.flatMap((family) => this.#list("addresses", family, decodeAddress)),
    };
  }

  write(changes: readonly Change[]): void {
    for (const change of changes) {
      const sequence = this.#next();
      this.#receiveAll();
      this.#socket.send(encodeChange(change, sequence));
      const { acknowledged, errors } = readBatchAnswer(this.#receiveAll(), sequence - 1, 1);
      const errno = errors[0]?.errno;
      if (acknowledged || HARMLESS[change.kind].includes(errno ?? 0)) continue;
      throw refused(change, errno);
    }
  }
}

function refused(change: Change, errno: number | undefined): ImdsProxyError {
  const family = "rule" in change ? change.rule.family : change.route.family;
  const text =
    "rule" in change ? `rule ${ruleText(change.rule)}` : routeText(change.route).replace(/^-6 /, "");
  const problem = `the kernel refused to ${change.kind.replace(/-.*/, "")} the routing ${text} (${family}, errno ${errno ?? "none"})`;
  return errno === EPERM
    ? new ImdsProxyError("permission", problem, "run it as root: with sudo")
    : new ImdsProxyError("command-failed", problem, SEE_IP);
}
