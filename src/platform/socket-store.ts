import { libc } from "./socket-calls.ts";
import { notifySystemd } from "./systemd-notify.ts";

/**
 * Listening sockets that systemd keeps while the service is away (systemd.service(5), FileDescriptorStoreMax=): over a
 * restart, a crash or a kill the port stays taken, and connections wait in the socket's queue instead of being refused.
 * They come back as sd_listen_fds(3) says: LISTEN_FDS descriptors from 3 on, named in LISTEN_FDNAMES.
 */

/** SD_LISTEN_FDS_START, sd-daemon.h. */
const FIRST_DESCRIPTOR = 3;
const F_SETFD = 2;
const FD_CLOEXEC = 1;

/** The descriptors that systemd passed to a process, by name. Empty where none were passed to this process. Pure. */
export function inheritedDescriptors(
  variables: Readonly<Record<string, string | undefined>>,
  pid: number,
): Map<string, number> {
  const count = Number(variables["LISTEN_FDS"] ?? "0");
  if (variables["LISTEN_PID"] !== String(pid) || !Number.isInteger(count) || count < 1) return new Map();
  const names = (variables["LISTEN_FDNAMES"] ?? "").split(":");
  return new Map(
    Array.from({ length: count }, (_, index) => [names[index] ?? `${index}`, FIRST_DESCRIPTOR + index]),
  );
}

/** A store of sockets by name; empty where systemd offers none. */
export interface SocketStore {
  /** Takes the descriptor that was stored under a name, or null; the caller owns it from then on. */
  take(name: string): number | null;
  /** Stores a socket; the caller keeps its own descriptor. */
  keep(name: string, descriptor: number): void;
  /** Removes the sockets that are stored under a name. */
  forget(name: string): void;
  /** Removes every socket that was not taken. */
  forgetRest(): void;
  /** Removes every socket: clients are then refused, where they would otherwise wait for a service that cannot start. */
  forgetAll(): void;
}

/** A store that stores nothing. */
export const NO_STORE: SocketStore = {
  take: () => null,
  keep() {},
  forget() {},
  forgetRest() {},
  forgetAll() {},
};

/** The store of the unit that this process is the main process of. Takes the variables out of the environment. */
export function systemdStore(): SocketStore {
  const inherited = inheritedDescriptors(process.env, process.pid);
  for (const name of ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]) delete process.env[name];
  // Programs that we start must not inherit them.
  for (const descriptor of inherited.values()) libc.fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  const kept = new Set(inherited.keys());
  const forget = (name: string) => {
    kept.delete(name);
    const descriptor = inherited.get(name);
    inherited.delete(name);
    if (descriptor !== undefined) libc.close(descriptor);
    // Since systemd 236.
    notifySystemd(`FDSTOREREMOVE=1\nFDNAME=${name}`);
  };
  return {
    take(name) {
      const descriptor = inherited.get(name) ?? null;
      inherited.delete(name);
      return descriptor;
    },
    keep(name, descriptor) {
      kept.add(name);
      notifySystemd(`FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`, descriptor);
    },
    forget,
    forgetRest() {
      for (const name of [...inherited.keys()]) forget(name);
    },
    forgetAll() {
      for (const name of [...kept]) forget(name);
    },
  };
}
