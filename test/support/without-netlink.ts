/**
 * A command under a filter of seccomp(2) that refuses sockets of one netlink protocol, as a kernel without it does
 * (EPROTONOSUPPORT). The filter holds for everything that the command starts.
 *
 * @param protocol NETLINK_SOCK_DIAG is 4, NETLINK_NETFILTER is 12 (linux/netlink.h).
 */
export const withoutNetlink = (protocol: number, argv: readonly [string, ...string[]]): string[] => [
  "/usr/bin/python3",
  "-c",
  `
import ctypes, os, struct, platform
x86 = platform.machine() == "x86_64"
SOCKET = 41 if x86 else 198
ins = lambda code, jt, jf, k: struct.pack("HBBI", code, jt, jf, k)
program = b"".join([
    ins(0x20, 0, 0, 0),               # the system call's number
    ins(0x15, 0, 5, SOCKET),
    ins(0x20, 0, 0, 16),              # its first argument: AF_NETLINK
    ins(0x15, 0, 3, 16),
    ins(0x20, 0, 0, 32),              # its third: the protocol
    ins(0x15, 0, 1, ${protocol}),
    ins(0x06, 0, 0, 0x00050000 | 93), # EPROTONOSUPPORT
    ins(0x06, 0, 0, 0x7fff0000),      # allow
])
buffer = ctypes.create_string_buffer(program)
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
fprog = Fprog(8, ctypes.cast(buffer, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0
os.execv("${argv[0]}", ${JSON.stringify(argv)})
`,
];
