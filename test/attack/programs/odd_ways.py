#!/usr/bin/python3
"""Asks for a role with every odd option that a user may set on a socket; prints one line of JSON: the role that each gets, or why none.

usage: odd_ways.py [ADDRESS PORT]...
"""
import ctypes
import json
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

from imds import LIST, ask

SO_DONTROUTE, SO_BINDTODEVICE, SO_PRIORITY = 5, 25, 12
IP_UNICAST_IF, IP_LOCAL_PORT_RANGE = 50, 51
libc = ctypes.CDLL(None)


def place(address, port):
    return (address, port, 0, 0) if ":" in address else (address, port)


def made(address):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.settimeout(3)
    return s


def with_option(level, name, value):
    def connect(address, port):
        s = made(address)
        s.setsockopt(level, name, value)
        s.connect(place(address, port))
        return s

    return connect


def elsewhere_first(address, port):
    """Connected to somewhere that is allowed, and from there to the place (connect(2), AF_UNSPEC)."""
    first = made("127.0.0.1")
    first.bind(("127.0.0.1", 0))
    first.listen()
    s = made("127.0.0.1")
    s.connect(first.getsockname())
    libc.connect(s.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)
    s.connect(place(address, port))
    return s


def mapped(address, port):
    s = socket.socket(socket.AF_INET6)
    s.settimeout(3)
    s.connect((f"::ffff:{address}", port, 0x12345, 0))
    return s


def devices(address, port):
    """Bound to one device after another, until one answers."""
    error = OSError("no device")
    for _, name in socket.if_nameindex():
        s = made(address)
        try:
            s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, name.encode())
            s.setsockopt(socket.SOL_SOCKET, SO_DONTROUTE, 1)
            s.connect(place(address, port))
            return s
        except OSError as found:
            error = found
    raise error


def unicast_if(address, port):
    s = made(address)
    for index, _ in socket.if_nameindex():
        s.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("!I", index))
    s.connect(place(address, port))
    return s


TOS = {f"TOS {tos:#x}": with_option(socket.IPPROTO_IP, socket.IP_TOS, tos) for tos in (0x08, 0x10, 0x1C, 0xE0)}
WAYS = {
    "plain": with_option(socket.SOL_SOCKET, SO_PRIORITY, 0),
    "SO_DONTROUTE": with_option(socket.SOL_SOCKET, SO_DONTROUTE, 1),
    **TOS,
    "IP_UNICAST_IF": unicast_if,
    "TTL 1": with_option(socket.IPPROTO_IP, socket.IP_TTL, 1),
    "small segments": with_option(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88),
    "ports": with_option(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", (40100 << 16) | 40000)),
    "elsewhere first": elsewhere_first,
    "mapped, with a flow label": mapped,
    "each device, not routed": devices,
}


def outcome(connect, address, port):
    try:
        s = connect(address, port)
    except OSError as error:
        return error.strerror or str(error)
    try:
        with s:
            s.settimeout(10)
            status, token = ask(s, "/latest/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
            if status != 200:
                return f"status {status}"
            return ask(s, LIST, headers=f"X-aws-ec2-metadata-token: {token}\r\n")[1]
    except OSError as error:
        return error.strerror or str(error)


places = list(zip(sys.argv[1::2], map(int, sys.argv[2::2])))
tries = {
    f"{name} to {address}": (connect, address, port)
    for address, port in places
    for name, connect in WAYS.items()
    if ":" not in address or name in ("plain", "SO_DONTROUTE")
}
with ThreadPoolExecutor(len(tries)) as pool:
    print(json.dumps(dict(zip(tries, pool.map(lambda one: outcome(*one), tries.values())))))
