#!/usr/bin/python3
"""Sockets that go from hand to hand. Run by root, who plays all the parts; each part is a process under its own uid.

usage: hands.py FROM_UID TO_UID
Prints one line of JSON: for each way, what the proxy takes the receiver for, who holds another's socket.
"""
import json
import os
import socket
import sys

from imds import METADATA4, WHOAMI, identity, outcome, request, tcp

giver, receiver = int(sys.argv[1]), int(sys.argv[2])
found = {}


def run_as(uid, act):
    """Runs it in a child under the uid; returns what it returned, as text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.write(writer, outcome(act).encode())
        os._exit(0)
    os.close(writer)
    text = b""
    while part := os.read(reader, 4096):
        text += part
    os.close(reader)
    os.waitpid(child, 0)
    return text.decode()


def handed(make, use):
    """`make` under the giver's uid; the socket goes over by SCM_RIGHTS; `use` under the receiver's."""
    here, there = socket.socketpair()

    def give():
        s = make()
        socket.send_fds(here, [b"x"], [s.fileno()])
        return "given"

    def take():
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=descriptors[0]) as s:
            s.settimeout(5)
            return use(s)

    given = run_as(giver, give)
    if given != "given":
        return given
    return run_as(receiver, take)


def connected():
    s = tcp()
    s.connect((METADATA4, 80))
    return s


def asked():
    s = connected()
    s.sendall(request("GET", WHOAMI))
    return s


def connect_and_ask(s):
    s.connect((METADATA4, 80))
    return identity(s)


def read(s):
    from imds import answer
    status, body = answer(s)
    return json.loads(body)["uid"] if status == 200 else f"status {status}"


found["connected, then given away"] = handed(connected, identity)
found["asked, then given away"] = handed(asked, read)
found["given away, then connected"] = handed(tcp, connect_and_ask)


# A socket that the giver made and that a process of the receiver's has by inheritance.
def inherited():
    s = connected()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, outcome(lambda: identity(s)).encode())
        os._exit(0)
    return os.read(reader, 4096).decode()


found["inherited by a child"] = run_as(giver, inherited)
print(json.dumps(found))
