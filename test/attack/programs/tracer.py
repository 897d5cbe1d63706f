#!/usr/bin/python3
"""As a user: tries to take over the process that acts as this user for root, and says what the kernel answers: one line of JSON.

usage: tracer.py
`attach` is the error of PTRACE_ATTACH, `memory` that of opening /proc/PID/mem; null where it worked.
"""
import ctypes
import errno
import json
import os
import time

ATTACH, DETACH = 16, 17
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long


def is_mine(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"\0as-user\0" not in file.read():
                return False
        with open(f"/proc/{pid}/status") as file:
            uids = next(line for line in file if line.startswith("Uid:")).split()[1:]
    except OSError:
        return False
    return uids == [str(os.getuid())] * 4


end = time.monotonic() + 60
found = None
while found is None:
    found = next((pid for pid in os.listdir("/proc") if pid.isdigit() and is_mine(pid)), None)
    if time.monotonic() > end:
        raise SystemExit("no process acts as this user")

attached = libc.ptrace(ATTACH, int(found), 0, 0)
attach = None if attached == 0 else errno.errorcode[ctypes.get_errno()]
try:
    os.close(os.open(f"/proc/{found}/mem", os.O_RDWR))
    memory = None
except OSError as error:
    memory = errno.errorcode[error.errno]
print(json.dumps({"attach": attach, "memory": memory}))
