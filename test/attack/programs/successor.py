#!/usr/bin/python3
"""Wants to be the next one who listens at an address: has it bound beforehand, and listens in the moment in which nobody else does.

usage: successor.py ADDRESS PORT [unbound]
`unbound`: binds nothing, and leaves the port to listen(2), which takes one of net.ipv4.ip_local_port_range.
Says `ready`; tries from SIGUSR1 on; says `refused` when it was for the first time, and `listening` when it listens. Ends by SIGTERM, and then says in one line of JSON how often
it was refused (`refused`), how many connections it accepted (`accepted`) and what it was sent (`seen`, in latin-1).
"""
import errno
import json
import select
import signal
import socket
import sys
import threading
import time

from impostor import serve_noting

address, port, unbound = sys.argv[1], int(sys.argv[2]), "unbound" in sys.argv
refused = accepted = 0
seen = []
begin, over = threading.Event(), threading.Event()


signal.signal(signal.SIGUSR1, lambda *_: begin.set())
signal.signal(signal.SIGTERM, lambda *_: (begin.set(), over.set()))
s = socket.socket()
if not unbound:
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        s.setsockopt(socket.SOL_SOCKET, option, 1)
    s.bind((address, port))
print("ready", flush=True)
begin.wait()
listens = False
while not listens and not over.is_set():
    try:
        s.listen()
        listens = s.getsockname()[1] == port
        if not listens:
            s.close()
            s = socket.socket()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        refused += 1
        if refused == 1:
            print("refused", flush=True)
        time.sleep(0.0002)
if listens:
    print("listening", flush=True)
while not over.is_set():
    if select.select([s], [], [], 0.01)[0]:
        connection, _ = s.accept()
        accepted += 1
        threading.Thread(target=serve_noting, args=(connection, seen), daemon=True).start()
s.close()
print(json.dumps({"refused": refused, "accepted": accepted, "seen": seen}), flush=True)
