#!/usr/bin/python3
"""What becomes of a connection before the proxy comes to it.

usage: fates.py FATE [PORT]
`half`: everything sent, the sending side shut down, then the answer is read; prints who we are.
`close`, `linger`, `exit`, `half-exit`: connects, asks, and is gone in one way or another; prints `gone`.
With PORT, from that port of the address that users' requests come from (the second wall refuses every other).
"""
import os
import socket
import struct
import sys

from imds import METADATA4, WHOAMI, answer, outcome, request, tcp
import json

fate = sys.argv[1]
s = tcp(timeout=10)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if len(sys.argv) > 2:
    s.bind(("127.169.254.1", int(sys.argv[2])))


def act():
    s.connect((METADATA4, 80))
    s.sendall(request("GET", WHOAMI))
    if fate == "half":
        s.shutdown(socket.SHUT_WR)
        status, body = answer(s)
        return json.loads(body)["uid"] if status == 200 else f"status {status}"
    if fate == "linger":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if fate == "half-exit":
        s.shutdown(socket.SHUT_WR)
    if fate in ("exit", "half-exit"):
        print("gone", flush=True)
        os._exit(0)
    s.close()
    return "gone"


print(outcome(act))
