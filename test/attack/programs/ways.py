"""Tries every way to a place and prints those on which it was told the secret, one in a line: to, source, device, kind.

    ways.py SECRET PORT SECONDS PLACES

PLACES is JSON, a list of objects. Of each, every destination is tried with every source, device and kind: `to` and `sources`
are addresses (`fe80::1%eth0` has an interface), a source of null is the kernel's own choice; `devices` are interfaces to which
the socket is bound (SO_BINDTODEVICE), null for none; `kinds` are `tcp`, `mptcp` and `fast open`. All at once, each for SECONDS.
"""
import json
import socket
import struct
import sys
import threading

IPPROTO_MPTCP, SO_BINDTODEVICE, SO_RCVTIMEO, SO_SNDTIMEO, MSG_FASTOPEN = 262, 25, 20, 21, 0x20000000
secret, port, seconds = sys.argv[1].encode(), int(sys.argv[2]), float(sys.argv[3])


def place(address, port):
    if ":" not in address:
        return (address, port)
    host, _, device = address.partition("%")
    return (host, port, 0, socket.if_nametoindex(device) if device else 0)


def one(to, source, device, kind):
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if kind == "mptcp" else 0)
    try:
        s.settimeout(seconds)
        if device:
            s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
        if source:
            s.bind(place(source, 0))
        request = b"GET / HTTP/1.1\r\n\r\n"
        if kind == "fast open":
            s.settimeout(None)
            limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
            for option in (SO_RCVTIMEO, SO_SNDTIMEO):
                s.setsockopt(socket.SOL_SOCKET, option, limit)
            s.sendto(request, MSG_FASTOPEN, place(to, port))
        else:
            s.connect(place(to, port))
            s.sendall(request)
        if secret in s.recv(4096):
            print(to, source, device, kind, flush=True)
    except OSError:
        pass
    s.close()


threads = [
    threading.Thread(target=one, args=(to, source, device, kind))
    for some in json.loads(sys.argv[4])
    for to in some["to"]
    for source in some["sources"]
    for device in some["devices"]
    for kind in some["kinds"]
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
