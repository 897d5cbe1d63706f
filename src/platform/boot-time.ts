import { dlopen, FFIType, ptr } from "bun:ffi";

/** linux/time.h, since Linux 2.6.39: like CLOCK_MONOTONIC, but it also counts the time while the machine is suspended. */
const CLOCK_BOOTTIME = 7;

/**
 * struct timespec of a 64-bit machine: seconds and nanoseconds, 64 bits each. Both of our architectures are little-endian, so the
 * lower half comes first.
 */
const timespec = new Uint32Array(4);

let read: (() => number) | null = null;

/**
 * Milliseconds since the machine was started, including the time while it was suspended. Nobody can set this clock. Timers do not
 * follow it: they stop while the machine is suspended. Always 0 where the kernel has no such clock.
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
    // Read by index, because each request reads this clock: destructuring the array costs as much as the call.
    const seconds = (timespec[1] as number) * 2 ** 32 + (timespec[0] as number);
    return seconds * 1_000 + (timespec[2] as number) / 1e6;
  };
}
