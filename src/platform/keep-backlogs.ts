import { ptr } from "bun:ffi";
import { prctl } from "./libc.ts";

const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
const SECCOMP_RET_ALLOW = 0x7fff0000;
/** SECCOMP_RET_ERRNO with errno 0: the call is not made, and returns 0 (seccomp(2)). */
const SECCOMP_RET_DONE = 0x00050000;
/** BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K (linux/bpf_common.h). */
const LOAD = 0x20;
const JUMP_IF_EQUAL = 0x15;
const RETURN = 0x06;
/** AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h), and the number of listen(2) there. */
const LISTEN_CALLS: Readonly<Record<string, readonly [arch: number, listen: number]>> = {
  x64: [0xc000003e, 50],
  arm64: [0xc00000b7, 201],
};
/** The backlog that Bun passes to listen(2), even for a socket that listens already. */
const BUN_BACKLOG = 511;

/**
 * From now on, listen(2) with Bun's backlog of 511 does nothing, in this process and its children. Bun makes that call each time
 * that it is given our listening socket. Until ListeningSocket.restoreBacklog(), the kernel would then drop connections beyond
 * 511, and the client of a dropped SYN tries again a second later. Call this once everything listens. Where seccomp is not
 * available, nothing changes.
 */
export function keepBacklogs(): void {
  const call = LISTEN_CALLS[process.arch];
  if (call === undefined) return;
  const [arch, listen] = call;
  // struct seccomp_data: i32 nr, u32 arch, u64 instruction_pointer, u64 args[6]; args[1] begins at 24.
  const program: readonly (readonly [code: number, ifTrue: number, ifFalse: number, value: number])[] = [
    [LOAD, 0, 0, 4],
    [JUMP_IF_EQUAL, 0, 5, arch],
    [LOAD, 0, 0, 0],
    [JUMP_IF_EQUAL, 0, 3, listen],
    [LOAD, 0, 0, 24],
    [JUMP_IF_EQUAL, 0, 1, BUN_BACKLOG],
    [RETURN, 0, 0, SECCOMP_RET_DONE],
    [RETURN, 0, 0, SECCOMP_RET_ALLOW],
  ];
  // struct sock_filter: u16 code, u8 jt, u8 jf, u32 k. struct sock_fprog: u16 len, then the pointer at 8.
  const filter = new DataView(new ArrayBuffer(8 * program.length));
  for (const [index, [code, ifTrue, ifFalse, value]] of program.entries()) {
    filter.setUint16(8 * index, code, true);
    filter.setUint8(8 * index + 2, ifTrue);
    filter.setUint8(8 * index + 3, ifFalse);
    filter.setUint32(8 * index + 4, value, true);
  }
  const fprog = new DataView(new ArrayBuffer(16));
  fprog.setUint16(0, program.length, true);
  fprog.setBigUint64(8, BigInt(ptr(filter.buffer)), true);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0) return;
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ptr(fprog.buffer), 0, 0);
}
