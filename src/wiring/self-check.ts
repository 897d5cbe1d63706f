import { readFileSync, statSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import { parseAddress } from "../identity/address.ts";
import type { Lookup, SocketLookup } from "../identity/lookup.ts";

/** What must hold before the first caller is let in. */

/**
 * Refuses to start in a user namespace that does not hold every uid: there, the kernel gives all others as one
 * (user_namespaces(7), "overflow" uid), and identity would not be exact.
 */
export function requireInitialUserNamespace(map: string = readFileSync("/proc/self/uid_map", "utf8")): void {
  if (/^\s*0\s+0\s+4294967295\s*$/.test(map)) return;
  throw new ImdsProxyError(
    "missing",
    "this runs in a user namespace, where the kernel does not tell users apart",
    "run it outside of one; under systemd, without PrivateUsers=",
  );
}

/** Refuses a configuration that others than root and ourselves could change. */
export function requireClosed(path: string): void {
  const { uid, mode } = statSync(path);
  const foreign = uid !== 0 && uid !== process.getuid?.();
  if (!foreign && (mode & 0o022) === 0) return;
  throw new ImdsProxyError(
    "unsafe",
    `${path} can be changed by others: ${foreign ? `it belongs to uid ${uid}` : `its mode is ${(mode & 0o777).toString(8)}`}`,
    `make it root's own: chown root ${path} && chmod go-w ${path}`,
  );
}

const CHECK_MS = 2_000;

/**
 * Identifies a connection of our own, which shows at once that connection tracking can be asked and that inet_diag is
 * there: the kernel's answer for a missing inet_diag is the same as for a missing socket.
 *
 * @throws ImdsProxyError `permission` or `missing`.
 */
export async function requireIdentity(lookup: SocketLookup): Promise<void> {
  const found = await new Promise<Lookup>((resolve) => {
    const listener = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open(socket) {
          const localAddress = parseAddress(socket.localAddress);
          const peerAddress = parseAddress(socket.remoteAddress);
          if (localAddress === null || peerAddress === null) return;
          const { localPort, remotePort } = socket;
          resolve(lookup.identify({ localAddress, localPort, peerAddress, peerPort: remotePort }));
        },
        data() {},
      },
    });
    const client = Bun.connect({
      hostname: "127.0.0.1",
      port: listener.port,
      socket: { data() {}, error() {} },
    });
    const give = (why: string) => resolve({ kind: "refused", why });
    client.catch(() => give("no connection over loopback"));
    const timer = setTimeout(() => give("no connection over loopback"), CHECK_MS);
    timer.unref();
    client.then(
      (socket) => setTimeout(() => socket.terminate(), CHECK_MS).unref(),
      () => {},
    );
    setTimeout(() => listener.stop(true), CHECK_MS).unref();
  });
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
