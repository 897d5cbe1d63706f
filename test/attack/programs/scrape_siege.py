#!/usr/bin/python3
"""Keeps others from the metrics, or asks for them.

usage: scrape_siege.py stall HOST PORT UID...   by root, to stand for those accounts: connections whose answers are not taken
       scrape_siege.py gone HOST PORT           connections that are closed before the proxy comes to them
       scrape_siege.py scrape HOST PORT ROUNDS  a scraper: one request on a kept connection and one on a new one, in each round

The first two say "ready" once they are at it, and go on until they are killed. The last prints what came of the requests, as JSON.
"""
import collections
import json
import os
import socket
import sys
import time

kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
REQUEST = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
OF_ONE = 8
TRIES = 3


def connected(receive_bytes=None):
    s = socket.socket()
    if receive_bytes is not None:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    s.settimeout(60)
    s.connect((host, port))
    return s


def is_open(s):
    try:
        return s.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def stall():
    held = {int(uid): [] for uid in sys.argv[4:]}
    said = False
    while True:
        for uid, sockets in held.items():
            sockets[:] = [s for s in sockets if is_open(s)]
            while len(sockets) < OF_ONE:
                # The kernel asks who made the socket, so one process can make them all.
                os.setresuid(uid, uid, 0)
                try:
                    s = connected(1)
                    s.send(REQUEST * 40)
                    sockets.append(s)
                except OSError:
                    break
                finally:
                    os.setresuid(0, 0, 0)
        if not said and all(len(sockets) == OF_ONE for sockets in held.values()):
            said = True
            # Until the first answers have filled what the kernel takes.
            time.sleep(0.5)
            print("ready", flush=True)
        time.sleep(0.05)


def gone():
    said = False
    while True:
        # Its aim is the proxy's places, and not to fill the queue before them (4,096).
        for _ in range(500):
            try:
                connected().close()
            except OSError:
                pass
        if not said:
            said = True
            print("ready", flush=True)
        time.sleep(0.02)


def asked(s):
    """What came of a request: "ok" for a whole answer."""
    try:
        s.sendall(REQUEST)
        reader = s.makefile("rb")
        status = reader.readline().decode()
        length = 0
        while (line := reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if length == 0 or len(reader.read(length)) != length:
            return "cut off"
        return "ok" if status.startswith("HTTP/1.1 200 ") else status.strip()
    except OSError as error:
        return type(error).__name__


def scrape():
    counts = collections.Counter()
    kept = None

    def on_kept():
        nonlocal kept
        kept = kept or connected()
        outcome = asked(kept)
        if outcome != "ok":
            kept = None
        return outcome

    def on_new():
        s = connected()
        # The way of a request over a network.
        time.sleep(0.05)
        return asked(s)

    for _ in range(int(sys.argv[4])):
        for name, once in (("kept", on_kept), ("new", on_new)):
            # Where this process has no processor for seconds, the proxy closes a connection on which nothing came.
            for _ in range(TRIES):
                try:
                    outcome = once()
                except OSError as error:
                    outcome = type(error).__name__
                if outcome == "ok":
                    break
            counts[f"{name}: {outcome}"] += 1
        time.sleep(0.1)
    print(json.dumps(counts))


{"stall": stall, "gone": gone, "scrape": scrape}[kind]()
