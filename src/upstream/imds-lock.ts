import { connect, type Socket } from "node:net";
import { addressText, parseAddress } from "../identity/address.ts";
import type { Endpoint } from "../identity/endpoint.ts";
import type { Clock } from "../platform/clock.ts";
import { isWayForbidden, MarkedSocket } from "../platform/marked-socket.ts";

/**
 * systemd's lock of the metadata addresses (from systemd 261, `systemd.imds.network=locked`): a route of type `prohibit` to
 * each, which refuses root as well, and a table that only sockets with one mark are led to (systemd,
 * src/imds/85-imds-early.network). The proxy reaches its upstream with that mark, where it is refused without.
 */

/** The addresses that the lock is for: systemd 262 of Debian forky forbids both. */
const LOCKED_IPV4 = "169.254.169.254";
const LOCKED: readonly string[] = [LOCKED_IPV4, "fd00:ec2::254"];
/** The mark that systemd-imdsd's sockets have. */
export const IMDS_MARK = 0x7fff0815;

/** Milliseconds between two looks at a connection that does not stand yet; the last one is repeated. */
const LOOKS_MS = [1, 1, 2, 4, 8, 16, 32, 64];

/** Of an address that was parsed before: the bytes are never missing. */
const bytesOf = (address: string): Uint8Array => parseAddress(address) ?? new Uint8Array(4);

/** Whether the way to the metadata address of IPv4 is forbidden to this process, and open to a socket with the mark. */
export const isLocked = (): boolean =>
  isWayForbidden(bytesOf(LOCKED_IPV4), 80, null) && !isWayForbidden(bytesOf(LOCKED_IPV4), 80, IMDS_MARK);

/** Whether a connection that failed this way may be tried again with the mark. */
export const mayBeLocked = ({ address }: Endpoint, code: string | undefined): boolean =>
  LOCKED.includes(address) && code === "EACCES";

/** A connection with the mark, and our end of it, which Bun does not tell of a socket that it has not made. */
export interface Marked {
  readonly socket: Socket;
  readonly local: Endpoint;
}

/**
 * Connects with the mark.
 *
 * @returns why there is no connection, else the connection.
 * @throws the signal's reason where it is aborted first.
 */
export async function connectMarked(
  { address, port }: Endpoint,
  clock: Clock,
  signal: AbortSignal,
): Promise<Marked | { readonly code: string }> {
  const connecting = new MarkedSocket(bytesOf(address), port, IMDS_MARK);
  try {
    for (let look = 0; ; look++) {
      signal.throwIfAborted();
      const progress = connecting.progress();
      if (progress.kind === "failed") {
        connecting.close();
        return { code: progress.code };
      }
      if (progress.kind === "connected") {
        // Bun takes the descriptor over. allowHalfOpen: as for every connection to the upstream (connection.ts).
        const options = { fd: connecting.descriptor, allowHalfOpen: true };
        return {
          socket: connect(options as never),
          local: { address: addressText(progress.address), port: progress.port },
        };
      }
      await new Promise<void>((resolve) => {
        clock.schedule(LOOKS_MS[Math.min(look, LOOKS_MS.length - 1)] ?? 1, resolve);
      });
    }
  } catch (error) {
    connecting.close();
    throw error;
  }
}
