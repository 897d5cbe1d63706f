#!/usr/bin/python3
"""Sends to the socket of sd_notify(3), which every user may, without rest: the senders wait for the queue, so that it is always full.

usage: notifier.py SOCKET PROCESSES
Prints "full" once the queue has been.
"""
import os
import socket
import sys

path, processes = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(path)
s.setblocking(False)
while True:
    try:
        s.send(b"WATCHDOG=1")
    except BlockingIOError:
        break
print("full", flush=True)
s.setblocking(True)
for _ in range(processes - 1):
    if os.fork() == 0:
        break
while True:
    s.send(b"WATCHDOG=1")
