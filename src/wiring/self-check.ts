import { lstatSync, readFileSync, readlinkSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { ImdsProxyError } from "../errors.ts";
import { parseAddress } from "../identity/address.ts";
import type { Lookup, SocketLookup } from "../identity/lookup.ts";
import { after } from "../platform/clock.ts";

/** The checks before the first caller is served. */

/**
 * Refuses to start in a user namespace that does not map every uid. There the kernel shows all others as the overflow uid
 * (user_namespaces(7)), and identity would not be exact.
 */
export function requireInitialUserNamespace(map: string = readFileSync("/proc/self/uid_map", "utf8")): void {
  if (/^\s*0\s+0\s+4294967295\s*$/.test(map)) return;
  throw new ImdsProxyError(
    "missing",
    "this runs in a user namespace, where the kernel does not tell users apart",
    "run it outside of one; under systemd, without PrivateUsers=",
  );
}

/**
 * Refuses a configuration file that an account other than root or the service's own could change or replace. It checks the
 * file and everything on the way to it: each directory and each symbolic link that the kernel goes through.
 *
 * @throws ImdsProxyError `unsafe`
 */
export function requireClosed(path: string): void {
  const named = resolve(path);
  for (const one of wayTo(named)) {
    const found = lstatSync(one);
    const foreign = found.uid !== 0 && found.uid !== process.getuid?.();
    // A symbolic link has no mode of its own; in a sticky directory, as /tmp is, others cannot replace what is not theirs.
    const sticky = found.isDirectory() && (found.mode & 0o1000) !== 0;
    const open = !found.isSymbolicLink() && (found.mode & 0o022) !== 0 && !sticky;
    if (!foreign && !open) continue;
    const what = one === named ? path : `${path} lies below ${one}, and that`;
    throw new ImdsProxyError(
      "unsafe",
      `${what} can be changed by others: ${foreign ? `it belongs to uid ${found.uid}` : `its mode is ${(found.mode & 0o777).toString(8)}`}`,
      `make it root's own: chown root ${one} && chmod go-w ${one}`,
    );
  }
}

/** Links that the kernel follows in one path at most (path_resolution(7)). */
const MOST_LINKS = 40;

/** Every directory and link that the kernel goes through to an absolute path, and what it leads to. */
function wayTo(path: string): ReadonlySet<string> {
  const way = new Set(["/"]);
  let at = "/";
  let rest = path.split("/");
  let links = 0;
  while (rest.length > 0) {
    const [name = "", ...further] = rest;
    rest = further;
    // The parent of a directory that links have led to, as the kernel takes it.
    at = resolve(at, name === "" ? "." : name);
    way.add(at);
    const found = lstatSync(at, { throwIfNoEntry: false });
    if (found === undefined) throw notInFileSystem(path);
    if (!found.isSymbolicLink()) continue;
    if (++links > MOST_LINKS) throw tooManyLinks(path);
    const target = readlinkSync(at);
    at = target.startsWith("/") ? "/" : dirname(at);
    rest = [...target.split("/"), ...rest];
  }
  return way;
}

const tooManyLinks = (path: string) =>
  new ImdsProxyError(
    "unsafe",
    `${path} leads through more than ${MOST_LINKS} symbolic links`,
    "name the file itself",
  );

/** As of a pipe: /dev/fd/63 and /dev/stdin lead to `pipe:[1234]`, which no directory has. */
const notInFileSystem = (path: string) =>
  new ImdsProxyError(
    "missing",
    `${path} leads to no file: it is a pipe, or was removed meanwhile`,
    "name a file: the configuration is read again later",
  );

/**
 * Variables that make Bun run other code, open a debugger that any local user can reach, log what it sends to STS, or trust
 * any certificate of an STS (Bun's documentation, "Environment variables" and "Debugger").
 */
const DANGEROUS_VARIABLE =
  /^(?:BUN_(?:OPTIONS|INSPECT|INSPECT_PRELOAD|INSPECT_NOTIFY|INSPECT_CONNECT_TO|CONFIG_VERBOSE_FETCH)|NODE_TLS_REJECT_UNAUTHORIZED)$/;

/**
 * Refuses to start with such a variable.
 *
 * @throws ImdsProxyError `unsafe`, with the names alone: a value could be anything.
 */
export function requireSafeEnvironment(
  variables: Readonly<Record<string, string | undefined>> = process.env,
): void {
  const found = Object.keys(variables).filter((name) => DANGEROUS_VARIABLE.test(name));
  if (found.length === 0) return;
  throw new ImdsProxyError(
    "unsafe",
    `the environment has ${found.join(", ")}, which would let others debug this, or show what it sends`,
    `start it without: env ${found.map((name) => `-u ${name}`).join(" ")} imdsproxy serve`,
  );
}

/**
 * How long our own connection may take. It takes microseconds, and seconds on a node whose processors others keep busy: there a
 * start that gives up makes systemd start us again, which costs more. It is half of the unit's TimeoutStartSec=.
 */
const CHECK_MS = 15_000;

/**
 * Identifies a connection of our own, which shows at once that connection tracking can be asked and that inet_diag is
 * there: the kernel's answer for a missing inet_diag is the same as for a missing socket.
 *
 * @param limitMs how long the connection may take, in milliseconds
 * @throws ImdsProxyError `permission` or `missing`.
 */
export async function requireIdentity(lookup: SocketLookup, limitMs = CHECK_MS): Promise<void> {
  const found = await identifyOurselves(lookup, limitMs);
  if (found === null) {
    throw new ImdsProxyError(
      "missing",
      "cannot connect to a port of our own on 127.0.0.1",
      "the interface lo must be up, and no firewall may stop connections from 127.0.0.1 to itself",
    );
  }
  if (found.kind === "owner" && found.owner.uid === process.geteuid?.()) return;
  const why = found.kind === "owner" ? `the kernel says uid ${found.owner.uid}` : found.why;
  if (/connection tracking: errno 1$/.test(why)) {
    throw new ImdsProxyError(
      "permission",
      "cannot ask connection tracking: not permitted",
      "run it as root, or with the capability CAP_NET_ADMIN",
    );
  }
  throw new ImdsProxyError(
    "missing",
    `cannot identify a connection of our own: ${why}`,
    "the kernel must have inet_diag and tcp_diag (modprobe tcp_diag) and nf_conntrack_netlink",
  );
}

/**
 * Connects to a port of our own, of the kernel's choice, for as long as it takes to be accepted. Every user can connect there
 * as well, and reset the connection at once: only the one from our own port counts.
 *
 * @returns who the kernel says it is; null where there was no connection.
 */
async function identifyOurselves(lookup: SocketLookup, limitMs: number): Promise<Lookup | null> {
  const accepted = new Map<number, Lookup>();
  let look = () => {};
  const listener = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        // The kernel has no addresses of a connection that was reset before it was accepted.
        const localAddress = parseAddress(socket.localAddress ?? "");
        const peerAddress = parseAddress(socket.remoteAddress ?? "");
        if (localAddress === null || peerAddress === null) return;
        const { localPort, remotePort: peerPort } = socket;
        accepted.set(peerPort, lookup.identify({ localAddress, localPort, peerAddress, peerPort }));
        look();
      },
      data() {},
      error() {},
    },
  });
  const { promise: tooLate, resolve: giveUp } = Promise.withResolvers<null>();
  const cancel = after(limitMs, () => giveUp(null));
  try {
    const connecting = Bun.connect({
      hostname: "127.0.0.1",
      port: listener.port,
      socket: { data() {}, error() {} },
    }).catch(() => null);
    const ours = await Promise.race([connecting, tooLate]);
    if (ours === null) return null;
    const { promise, resolve } = Promise.withResolvers<Lookup>();
    look = () => {
      const found = accepted.get(ours.localPort);
      if (found !== undefined) resolve(found);
    };
    look();
    const found = await Promise.race([promise, tooLate]);
    ours.terminate();
    return found;
  } finally {
    cancel();
    listener.stop(true);
  }
}
