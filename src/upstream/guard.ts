import { networkInterfaces } from "node:os";
import { parseAddress, sameAddress } from "../identity/address.ts";
import { endpointText } from "../identity/endpoint.ts";
import type { Listening, SocketAddress, SocketLookup } from "../identity/lookup.ts";
import type { Log } from "../telemetry/log.ts";
import type { ConnectionGuard, UpstreamGuard, Verdict } from "./connection.ts";

/** UID_MIN of login.defs(5) on every system that we suit: accounts below are the system's own. */
const FIRST_ORDINARY_UID = 1_000;
/** Milliseconds between two log lines of the same problem. */
const COMPLAIN_MS = 60_000;

/** The problems, each with what an administrator can do. The rate limit of each is its own, so that none hides another. */
const COMPLAINTS = {
  impostor: {
    level: "error",
    message: "somebody answers in the upstream's place",
    remedy:
      "see who it is with ss -ltnp; if the agent runs under that account, name the account under exempt",
  },
  absent: {
    level: "warn",
    message: "the upstream is away",
    remedy: "see whether the agent runs (ss -ltnp), or set upstream in the configuration",
  },
  slow: {
    level: "warn",
    message: "the upstream does not accept connections",
    remedy:
      "see whether the agent is stopped or overloaded; one that listens with TCP_DEFER_ACCEPT cannot be asked",
  },
  unknown: {
    level: "error",
    message: "the kernel does not tell who answers in the upstream's place",
    remedy: "the kernel must have inet_diag and tcp_diag (modprobe tcp_diag)",
  },
} as const;

/**
 * Checks that no impostor answers in the upstream's place. The HyperPod agent's port is above 1023: while the agent is away,
 * any user can bind it and give out credentials and metadata of their own. So where the upstream is an address of this node,
 * only processes of root, of a system account or of an exempt user are trusted. The account of the agent is not documented,
 * but nobody logs in under it. An upstream on another machine has no socket here, and is trusted.
 *
 * A connection is trusted once three answers of the kernel agree, before a byte is sent:
 * 1. before it is made, a trusted account listens at the address;
 * 2. the socket at its other end has been accepted by a trusted account;
 * 3. after that, the listening socket is still the one of (1).
 *
 * (2) alone would be enough for sockets that a process accepts: the uid is that of the process that called accept(), and
 * stays (sock_alloc in net/socket.c; fchown() to another account takes CAP_CHOWN). But the kernel itself accepts the TCP
 * connections below an AF_SMC listener, in a worker thread, and such a socket is root's whoever listens
 * (smc_clcsock_accept in net/smc/af_smc.c); and somebody could hand a listener to a program that runs as root. (1) and (3)
 * say that nobody else had the address in between, since one listening socket does not share it with another account's.
 *
 * The accepted socket is looked up again before each request and at each answer. Where it has been closed by then, the bytes
 * received are still the trusted account's, because our end was open all the time, and no other socket can have taken over
 * the connection. Who listens at the address now is never a reason to trust a connection.
 */
export function upstreamGuard(options: {
  lookup: Pick<SocketLookup, "peerOf" | "listenerOf">;
  /** Uids that may be the upstream besides root and system accounts. */
  trusted: ReadonlySet<number>;
  log: Pick<Log, "warn" | "error">;
  monotonicMs: () => number;
  /** Whether an address is one of this node's; asked each time, since addresses come and go. Default: {@link addressesOfThisNode}. */
  isLocal?: (address: Uint8Array) => boolean;
}): UpstreamGuard {
  const { lookup, trusted, log, monotonicMs } = options;
  const isLocal = options.isLocal ?? addressesOfThisNode(monotonicMs);
  const isTrusted = (uid: number) => uid < FIRST_ORDINARY_UID || trusted.has(uid);
  const complainedMs = new Map<keyof typeof COMPLAINTS, number>();

  const complain = (what: keyof typeof COMPLAINTS, why: string): string => {
    const now = monotonicMs();
    if (now - (complainedMs.get(what) ?? Number.NEGATIVE_INFINITY) >= COMPLAIN_MS) {
      complainedMs.set(what, now);
      const { level, message, remedy } = COMPLAINTS[what];
      log[level](message, { why, remedy });
    }
    return why;
  };

  /** Why whoever listens must not be asked, or null where a trusted account does. */
  const problemOf = (listening: Listening, text: string): string | null => {
    if (listening.kind === "unknown") return complain("unknown", `${text}: ${listening.why}`);
    if (listening.kind === "none") return complain("absent", `nobody listens at ${text}`);
    return isTrusted(listening.uid)
      ? null
      : complain(
          "impostor",
          `uid ${listening.uid} answers at ${text}: it listens there, and is not the agent`,
        );
  };

  const watch = (at: SocketAddress, text: string, before: Listening | null): ConnectionGuard => {
    /** Whether a trusted account has accepted the connection. */
    let accepted = false;
    const refuse = (why: string): Verdict => ({ kind: "refused", why });

    const judge = (local: SocketAddress): Verdict => {
      const peer = lookup.peerOf(at, local);
      const isHere =
        before !== null || (peer.kind !== "none" && peer.kind !== "unknown") || isLocal(at.address);
      if (!isHere) return { kind: "trusted" };
      if (peer.kind === "unknown") return refuse(complain("unknown", `${text}: ${peer.why}`));
      if (peer.kind === "accepted") {
        if (!isTrusted(peer.uid)) return refuse(complain("impostor", `uid ${peer.uid} answers at ${text}`));
        if (accepted) return { kind: "trusted" };
        const now = lookup.listenerOf(at);
        const problem = problemOf(now, text);
        if (problem !== null) return refuse(problem);
        if (before !== null && !isSameListener(before, now))
          return refuse(`${text}: another socket listens there since the connection was made; ask again`);
        accepted = true;
        return { kind: "trusted" };
      }
      if (accepted) return { kind: "gone" };
      if (peer.kind === "closed")
        return refuse(`${text} closed the connection before it was known who that was`);
      // The connection waits in the listener's queue, or, where that is full, outside of it. Whether to go on waiting depends on whose
      // the listener is.
      const problem = problemOf(lookup.listenerOf(at), text);
      if (problem !== null) return refuse(problem);
      return {
        kind: "waiting",
        giveUp: () => complain("slow", `the agent at ${text} does not accept connections (slow, or stopped)`),
      };
    };
    return {
      check(local) {
        const address = parseAddress(local.address);
        return address === null
          ? refuse(complain("unknown", `our own address ${local.address} cannot be read`))
          : judge({ address, port: local.port });
      },
    };
  };

  return {
    open(endpoint) {
      const text = endpointText(endpoint);
      const address = parseAddress(endpoint.address);
      if (address === null) return { refused: complain("unknown", `${text} is no address`) };
      const at = { address, port: endpoint.port };
      if (!isLocal(address)) return watch(at, text, null);
      const listening = lookup.listenerOf(at);
      const problem = problemOf(listening, text);
      return problem === null ? watch(at, text, listening) : { refused: problem };
    },
  };
}

const isSameListener = (a: Listening, b: Listening): boolean =>
  a.kind === "listener" && b.kind === "listener" && a.inode === b.inode;

/** Milliseconds for which the list of this node's addresses is kept. */
const ADDRESSES_MS = 1_000;

/**
 * Whether an address is one of this node's. Its interfaces are looked at once a second at most: the kernel gives their list
 * under a lock of all network namespaces, which a user holds for half a second at a time by making devices in one of their own
 * (rtnl_dump_ifinfo in net/core/rtnetlink.c; tried with linux 6.18), and nothing else is done meanwhile. An address that came
 * within that second is no gap: who has accepted a connection is asked of the kernel each time.
 *
 * @param list the addresses of this node; default: of its interfaces.
 */
export function addressesOfThisNode(
  monotonicMs: () => number,
  list: () => readonly string[] = interfaceAddresses,
): (address: Uint8Array) => boolean {
  let own: readonly Uint8Array[] = [];
  let seenMs = Number.NEGATIVE_INFINITY;
  return (address) => {
    // 127.0.0.0/8 is this node's, whether or not an interface has the address.
    if (address.length === 4 && address[0] === 127) return true;
    const nowMs = monotonicMs();
    if (nowMs - seenMs >= ADDRESSES_MS) {
      own = list().flatMap((text) => parseAddress(text) ?? []);
      seenMs = nowMs;
    }
    return own.some((one) => sameAddress(one, address));
  };
}

const interfaceAddresses = (): readonly string[] =>
  Object.values(networkInterfaces()).flatMap((found) => (found ?? []).map(({ address }) => address));
