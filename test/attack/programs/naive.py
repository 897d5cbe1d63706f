#!/usr/bin/python3
"""A proxy that identifies its callers as others do: what the attacks must work against, or they would prove nothing.

usage: naive.py HOW PORT
HOW: `port`: by the caller's port alone, as amazon-emr-user-role-mapper does; `peer`: by the address and port that
accept() reports, whatever the redirect has made of them; `orphan`: by sock_diag's uid alone, which is root's for nobody's.
Answers every request with the uid.
"""
import re
import socket
import socketserver
import struct
import sys
import time

how, port = sys.argv[1], int(sys.argv[2])


def uid_of(peer):
    address, peer_port = peer[0], peer[1]
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        wanted = b"".join(struct.pack("<I", word) for word in struct.unpack(">4I", packed)).hex().upper()
        table = "/proc/net/tcp6"
    else:
        wanted = struct.pack("<I", struct.unpack(">I", socket.inet_aton(address))[0]).hex().upper()
        table = "/proc/net/tcp"
    # Number, local address and port, remote ones, state, queues, timer, retransmissions, uid (proc(5)): the first that fits.
    local = "[0-9A-F]+" if how == "port" else wanted
    line = re.compile(rb"^ *\d+: %s:%04X \S+ \S+ \S+ \S+ \S+ +(\d+) " % (local.encode(), peer_port), re.MULTILINE)
    with open(table, "rb") as file:
        found = line.search(file.read())
    return int(found[1]) if found else -1


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        if how == "orphan":
            time.sleep(0.2)
        uid = uid_of(self.client_address)
        self.request.settimeout(10)
        try:
            got = b""
            while part := self.request.recv(65536):
                got += part
                while b"\r\n\r\n" in got:
                    got = got.partition(b"\r\n\r\n")[2]
                    body = str(uid).encode()
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 1024
    daemon_threads = True
    address_family = socket.AF_INET6 if len(sys.argv) > 3 else socket.AF_INET


Server((sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1", port), Handler).serve_forever()
