import { dlopen, FFIType } from "bun:ffi";
import { readFileSync } from "node:fs";

/**
 * Locks the pages of the program and its libraries in memory. The kernel can otherwise evict them, because it can read them
 * again from the file; under memory pressure with a slow disk the process then blocks on page faults in its own code.
 */

/** mlock2(2), which glibc has only from 2.27: its number (asm/unistd.h; Linux 4.4), and MLOCK_ONFAULT (bits/mman.h). */
const MLOCK2: Readonly<Record<string, number>> = { x64: 325, arm64: 284 };
const MLOCK_ONFAULT = 1n;

/** The file-backed ranges in the text of /proc/PID/maps (proc(5)). Pure. */
export function fileRanges(maps: string): readonly { readonly start: bigint; readonly length: bigint }[] {
  return maps.split("\n").flatMap((line) => {
    // address perms offset dev inode path; inode 0 is anonymous memory.
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) r\S+ [0-9a-f]+ \S+ [1-9]\d* +\//.exec(line) ?? [];
    if (from === undefined || to === undefined) return [];
    const start = BigInt(`0x${from}`);
    return [{ start, length: BigInt(`0x${to}`) - start }];
  });
}

/**
 * Locks the pages that are resident, and each further one once it is faulted in (MLOCK_ONFAULT), so that no more memory is
 * used than before. Call it once the program has started. Not mlockall(2): Bun reserves 70 GiB of addresses.
 *
 * @returns how many bytes of addresses are locked; 0 where the kernel or the limit (RLIMIT_MEMLOCK) does not allow it.
 */
export function lockProgram(): number {
  const call = MLOCK2[process.arch];
  if (call === undefined) return 0;
  const { symbols, close } = dlopen("libc.so.6", {
    syscall: {
      args: [FFIType.i64, FFIType.u64, FFIType.u64, FFIType.u64],
      returns: FFIType.i64,
    },
  });
  let locked = 0n;
  try {
    for (const { start, length } of fileRanges(readFileSync("/proc/self/maps", "utf8"))) {
      if (Number(symbols.syscall(call, start, length, MLOCK_ONFAULT)) === 0) locked += length;
    }
  } catch {
    // No /proc: nothing is locked.
  } finally {
    close();
  }
  return Number(locked);
}
