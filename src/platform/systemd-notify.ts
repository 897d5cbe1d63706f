import { ptr } from "bun:ffi";
import { type Clock, monotonicMs, sleep, systemClock } from "./clock.ts";
import {
  AF_UNIX,
  errno,
  libc,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
  unixName,
} from "./socket-calls.ts";

/**
 * Tells systemd of changes of state (sd_notify(3)): datagrams to the socket in NOTIFY_SOCKET.
 *
 * Every user may write to that socket (/run/systemd/notify, mode 0777), and its queue has net.unix.max_dgram_qlen places. So
 * nothing here waits in the kernel: a user who keeps the queue full could otherwise block the program. What does not fit is sent
 * later, in order.
 */

const SCM_RIGHTS = 1;
/** EINTR, EAGAIN, ENOMEM, EMFILE, ENOBUFS: it may be sent later. With another error there is nobody who would take it. */
const PASSING = new Set([4, 11, 12, 24, 105]);

/**
 * Milliseconds until a message that did not fit is sent again. The queue has a place whenever systemd has just taken a message
 * from it.
 */
const AGAIN_MS = 20;
/** The most messages that wait. A process sends few in its life, except for the watchdog's, of which at most one waits. */
const MOST_WAITING = 64;

/** A message, and the descriptor that goes with it; null for none. */
export interface Notification {
  readonly state: string;
  readonly descriptor: number | null;
}

/** Messages that are sent in order, as soon as each fits. */
export class NotifyQueue {
  readonly #send: (notification: Notification) => boolean;
  readonly #clock: Pick<Clock, "schedule">;
  #waiting: Notification[] = [];
  #isScheduled = false;

  /** @param options.send returns false where the message did not fit, and may be sent later. */
  constructor(options: {
    readonly send: (notification: Notification) => boolean;
    readonly clock: Pick<Clock, "schedule">;
  }) {
    this.#send = options.send;
    this.#clock = options.clock;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  add(notification: Notification): void {
    // Of two equal messages the later one is kept: it may undo what a message in between did.
    const { state, descriptor } = notification;
    if (descriptor === null)
      this.#waiting = this.#waiting.filter((one) => one.state !== state || one.descriptor !== null);
    if (this.#waiting.length >= MOST_WAITING) return;
    this.#waiting.push(notification);
    this.flush();
  }

  /** Sends what fits now. */
  flush(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (!this.#send(first)) break;
      this.#waiting.shift();
    }
    if (this.#waiting.length === 0 || this.#isScheduled) return;
    this.#isScheduled = true;
    this.#clock.schedule(AGAIN_MS, () => {
      this.#isScheduled = false;
      this.flush();
    });
  }
}

const queue = new NotifyQueue({ send: sendNow, clock: systemClock });

/**
 * Tells systemd of a change of state. Does nothing where there is no NOTIFY_SOCKET.
 *
 * @param state such as `READY=1`.
 * @param descriptor one that goes with it (sd_pid_notify_with_fds(3)); it has to stay open.
 */
export const notifySystemd = (state: string, descriptor: number | null = null): void =>
  queue.add({ state, descriptor });

/** The longest wait for what was not sent when a process ends: systemd learns of the end without it. */
const MOST_AT_END_MS = 2_000;

/** Resolves when everything is sent, or after the limit: for a process that ends. */
export async function systemdNotified(limitMs: number = MOST_AT_END_MS): Promise<void> {
  const endMs = monotonicMs() + limitMs;
  while (queue.waiting > 0 && monotonicMs() < endMs) {
    await sleep(AGAIN_MS);
    queue.flush();
  }
}

/** The address of the socket in NOTIFY_SOCKET, as the kernel takes it; null where there is none. */
function notifyAddress(): Uint8Array | null {
  const path = process.env["NOTIFY_SOCKET"];
  if (path === undefined || !/^[@/]/.test(path)) return null;
  return unixName(path);
}

/** Sends one datagram. True where it was sent, or can never be sent. */
function sendNow({ state, descriptor }: Notification): boolean {
  const address = notifyAddress();
  if (address === null) return true;
  const text = Buffer.from(state);
  // struct iovec: the base, then the length.
  const iovec = new BigUint64Array([BigInt(ptr(text)), BigInt(text.length)]);
  // struct msghdr on a machine of 64 bits: name, u32 namelen, iov, iovlen, control, controllen, i32 flags.
  const message = new DataView(new ArrayBuffer(56));
  message.setBigUint64(0, BigInt(ptr(address)), true);
  message.setUint32(8, address.length, true);
  message.setBigUint64(16, BigInt(ptr(iovec)), true);
  message.setBigUint64(24, 1n, true);
  // struct cmsghdr: u64 cmsg_len (16 and the data), i32 cmsg_level, i32 cmsg_type; then the descriptor, and 4 of padding.
  const control = new DataView(new ArrayBuffer(24));
  if (descriptor !== null) {
    control.setBigUint64(0, 20n, true);
    control.setInt32(8, SOL_SOCKET, true);
    control.setInt32(12, SCM_RIGHTS, true);
    control.setInt32(16, descriptor, true);
    message.setBigUint64(32, BigInt(ptr(control.buffer)), true);
    message.setBigUint64(40, 24n, true);
  }
  const socket = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return false;
  const sent = Number(libc.sendmsg(socket, ptr(message.buffer), MSG_DONTWAIT | MSG_NOSIGNAL));
  const isPassing = sent < 0 && PASSING.has(errno());
  libc.close(socket);
  return !isPassing;
}
