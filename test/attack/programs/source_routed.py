"""Reaches for a destination by way of another address: source_routed.py KIND VIA TO PORT

rthdr      an IPv6 segment routing header (RFC 8754) as a socket option of TCP
rthdr-udp  the same of a datagram
lsrr ssrr  an IPv4 source route, as an option of TCP

Says what came of it: an answer's status line, or the error.
"""
import json
import socket
import struct
import sys

kind, via, to, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
IPV6_RTHDR = 57


def routing_header() -> bytes:
    # struct ipv6_sr_hdr: nexthdr, hdrlen in units of 8 bytes, type 4, segments_left, first_segment, flags, tag; then the
    # segments, the last first. The kernel puts the destination into the first of them (net/ipv6/exthdrs.c).
    segments = [bytes(16), socket.inet_pton(socket.AF_INET6, via)]
    return struct.pack("!BBBBBBH", 0, 2 * len(segments), 4, len(segments) - 1, len(segments) - 1, 0, 0) + b"".join(segments)


def attempt() -> str:
    if kind == "rthdr-udp":
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        client.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, routing_header())
        client.sendto(b"x", (to, port))
        return "sent"
    if kind == "rthdr":
        client = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        client.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, routing_header())
    else:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        option = {"lsrr": 131, "ssrr": 137}[kind]
        client.setsockopt(
            socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([option, 7, 4]) + socket.inet_aton(via) + b"\0"
        )
    client.settimeout(2)
    client.connect((to, port))
    client.sendall(f"GET /latest/meta-data/ HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    return client.recv(100).decode("latin-1").split("\r\n")[0]


try:
    print(json.dumps(attempt()))
except OSError as error:
    print(json.dumps(type(error).__name__ if error.errno is None else f"errno {error.errno}"))
