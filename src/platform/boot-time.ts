import { dlopen, FFIType, ptr } from "bun:ffi";

/** linux/time.h (Linux 2.6.39): as CLOCK_MONOTONIC, and it goes on while the machine is suspended. */
const CLOCK_BOOTTIME = 7;

/** struct timespec of a 64-bit machine: seconds, then nanoseconds, in 64 bits each, the lower half first on both of ours. */
const timespec = new Uint32Array(4);

let read: (() => number) | null = null;

/**
 * Milliseconds since the machine was started, the time included in which it slept. Nobody can set this clock, and timers do not
 * follow it: while the machine sleeps they stand still. 0 at all times where the kernel has no such clock.
 */
export function bootMs(): number {
  read ??= reader();
  return read();
}

function reader(): () => number {
  const { clock_gettime } = dlopen("libc.so.6", {
    clock_gettime: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
  }).symbols;
  const at = ptr(timespec);
  return () => {
    if (clock_gettime(CLOCK_BOOTTIME, at) !== 0) return 0;
    // By index: each request reads it, and to take an array apart as a list costs as much as the call.
    const seconds = (timespec[1] as number) * 2 ** 32 + (timespec[0] as number);
    return seconds * 1_000 + (timespec[2] as number) / 1e6;
  };
}
