#!/usr/bin/python3
"""Makes processes until the kernel makes no more, and takes each place that gets free.

usage: fill.py
Says `full N` when it was refused a process for the first time, with the number that it has. Ends by SIGTERM, with all of them.
"""
import ctypes
import os
import signal
import time

PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)
me = os.getpid()
children = 0
said = False
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(0)
            while True:
                signal.pause()
        children += 1
    except OSError:
        if not said:
            print(f"full {children}", flush=True)
            said = True
        time.sleep(0.0005)
