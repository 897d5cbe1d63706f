"""Begins connections from an address and a port to each port from which somebody may connect there, and keeps them: for whoever
connects from such a port later, the kernel takes them for the other half of a simultaneous open, whoever listens by then.

usage: crossing.py ADDRESS PORT FIRST LAST FROM...
FIRST to LAST are the ports, FROM the addresses, of those who will connect. Each is tried with a SYN that is sent at once, and with
TCP_FASTOPEN_CONNECT, by which none is sent before there is data; and bound to the address, or to every address.
Says `ready`, and in one line of JSON how many it `holds`, and why others were refused (`errors`); ends by SIGTERM.
"""
import collections
import json
import resource
import signal
import socket
import sys

TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_SYNCNT = 30, 34, 7
address, port, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, errors = [], collections.Counter()


def begin(bound, towards, deferred):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.IPPROTO_TCP, TCP_SYNCNT, 127)
    if deferred:
        s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        s.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
    s.setblocking(False)
    try:
        s.bind((bound, port))
        s.connect(towards)
    except BlockingIOError:
        pass
    except OSError as error:
        errors[error.strerror] += 1
        s.close()
        return
    # Of those that are bound to every address, some have got another one.
    if s.getsockname()[0] == address:
        held.append(s)
    else:
        s.close()


for number in range(first, last + 1):
    for source in sys.argv[5:]:
        # A quarter of each kind. Not by the last bit: connect(2) takes even ports first (__inet_hash_connect).
        begin((address, "0.0.0.0")[number // 4 % 2], (source, number), number // 2 % 2 == 1)
print("ready", json.dumps({"holds": len(held), "errors": errors}), sep="\n", flush=True)
signal.pause()
