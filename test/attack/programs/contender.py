#!/usr/bin/python3
"""Opens and closes a listener at an address as often as it can, and answers who connects as a metadata service does, with
an identity of its own making.

usage: contender.py ADDRESS PORT
Says `contending` once it has tried for the first time. Ends by SIGTERM, and then says in one line of JSON how often it
listened (`listened`), how many connections it accepted (`accepted`), and what it was sent (`seen`, in latin-1).
"""
import json
import select
import signal
import socket
import sys
import threading
import time

from impostor import serve_noting

address, port = sys.argv[1], int(sys.argv[2])
listened = accepted = 0
seen = []
over = threading.Event()


def contend():
    global listened, accepted
    said = False
    while not over.is_set():
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((address, port))
            s.listen()
            listened += 1
            if select.select([s], [], [], 0.0005)[0]:
                connection, _ = s.accept()
                accepted += 1
                threading.Thread(target=serve_noting, args=(connection, seen), daemon=True).start()
        except OSError:
            pass
        s.close()
        # As long without as with a listener: the agent has its chance, and so has the race.
        time.sleep(0.0005)
        if not said:
            print("contending", flush=True)
            said = True


signal.signal(signal.SIGTERM, lambda *_: over.set())
contend()
print(json.dumps({"listened": listened, "accepted": accepted, "seen": seen}), flush=True)
