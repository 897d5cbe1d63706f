#!/usr/bin/python3
"""Stands for systemd at the socket of sd_notify(3).

usage: notified.py SOCKET PAUSE, run by root
Prints a line `UID STATE` for each message of root's that begins with another word than the one before; reads nothing while the file
PAUSE is there, and says so.
"""
import os
import socket
import struct
import sys
import time

path, pause = sys.argv[1:]
SO_PASSCRED = 16
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
s.bind(path)
os.chmod(path, 0o777)
said = paused = None
while True:
    if os.path.exists(pause):
        if not paused:
            print("paused", flush=True)
        paused, said = True, None
        time.sleep(0.01)
        continue
    paused = False
    text, control, _, _ = s.recvmsg(4096, 4096)
    uid = next(struct.unpack("3i", data[:12])[1] for _, kind, data in control if kind == socket.SCM_CREDENTIALS)
    state = text.decode().split("\n")[0]
    if uid == 0 and state != said:
        said = state
        print(uid, state, flush=True)
