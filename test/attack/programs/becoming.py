#!/usr/bin/python3
"""Runs a command of root's under ptrace(2), and says where its processes become a user's: one line of JSON.

usage: becoming.py UID COMMAND...
A process that vfork(2) has made keeps whoever made it waiting until it executes a program. From the moment at which it has the user's uid
the user may stop it (kill(2)): then whoever made it waits for ever, whatever limit of time it has. So each process of the command's goes
from one system call to the next here, which is the attack by somebody who is never too late.
`waited`: how many processes had the uid while their maker waited for them; `became`: how many came to have it.
"""
import ctypes
import json
import os
import signal
import sys

TRACEME, CONT, SYSCALL, SETOPTIONS, GETEVENTMSG = 0, 7, 24, 0x4200, 0x4201
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC = 1, 2, 3, 4
# PTRACE_O_TRACE… is 1 << EVENT; the last ends the processes with this one (PTRACE_O_EXITKILL).
OPTIONS = 1 << EVENT_FORK | 1 << EVENT_VFORK | 1 << EVENT_CLONE | 1 << EVENT_EXEC | 1 << 20
uid, command = sys.argv[1], sys.argv[2:]
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
ptrace.restype = ctypes.c_long


def uid_of(task):
    with open(f"/proc/{task}/status") as file:
        return next(line for line in file if line.startswith("Uid:")).split()[1]


first = os.fork()
if first == 0:
    ptrace(TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    # What the command says is no matter.
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    os.execvp(command[0], command)
os.waitpid(first, 0)
ptrace(SETOPTIONS, first, 0, OPTIONS)
# Tasks that share their maker's memory, by vfork(2); those of whom their maker's stop has told; those that stopped before it had.
sharing, told, early = set(), {first}, set()
waited, became = set(), set()


def go_on(task, deliver=0):
    ptrace(SYSCALL if task in sharing else CONT, task, 0, deliver)


go_on(first)
while True:
    try:
        task, status = os.waitpid(-1, 0x40000000)  # __WALL
    except ChildProcessError:
        break
    if not os.WIFSTOPPED(status):
        sharing.discard(task)
        continue
    event, stopped = status >> 16, os.WSTOPSIG(status)
    try:
        if uid_of(task) == uid:
            became.add(task)
            if task in sharing and event != EVENT_EXEC:
                waited.add(task)
    except OSError:
        pass
    deliver = 0
    if event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE):
        message = ctypes.c_ulong()
        ptrace(GETEVENTMSG, task, 0, ctypes.addressof(message))
        made = message.value
        told.add(made)
        if event == EVENT_VFORK:
            sharing.add(made)
        if made in early:
            go_on(made)
    elif event == EVENT_EXEC:
        sharing.discard(task)
    elif task not in told:
        early.add(task)
        continue
    elif event == 0 and stopped not in (signal.SIGTRAP, signal.SIGSTOP):
        deliver = stopped
    go_on(task, deliver)
print(json.dumps({"waited": len(waited), "became": len(became)}))
