"""Fills the kernel's table of tracked connections: tracked.py KIND SECONDS [ADDRESS]

datagrams  a datagram to each port of each of the addresses that begin with ADDRESS ("127.0.0." by default)
closed     connections to itself, closed at once
held       connections to itself, held; as many as files allow
pairs      datagrams from each of 600 sockets of its own to each of 600 others and back, again and again: what the kernel
           has seen in both directions for two seconds it drops for nobody, however full the table is
mptcp      the same as closed by MPTCP sockets, whose packets have no uid on older kernels
crowd FIRST    datagrams of a thousand uids from FIRST, one after the other; to be run as root

Where a slow machine has not come to so much in SECONDS, it goes on for up to 30 s more: until it has tried to begin TRACKED_TRIED
of the environment, and until the table has held TRACKED_HELD.

Says how many were begun, how many the kernel refused at once, and the most that the table held.
"""
import errno
import json
import os
import resource
import socket
import sys
import time

kind, seconds = sys.argv[1], float(sys.argv[2])
more = sys.argv[3] if len(sys.argv) > 3 else "127.0.0."
ends = time.monotonic() + seconds
begun = refused = most = 0
to_try, to_hold = (int(os.environ.get(name, "0")) for name in ("TRACKED_TRIED", "TRACKED_HELD"))
MORE_SECONDS = 30
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
IPPROTO_MPTCP = 262


def count() -> int:
    global most
    with open("/proc/sys/net/netfilter/nf_conntrack_count") as file:
        most = max(most, int(file.read()))
    return most


def going() -> bool:
    now = time.monotonic()
    return now < ends or ((most < to_hold or begun + refused < to_try) and now < ends + MORE_SECONDS)


def datagrams(prefix: str, start: int, goes_on) -> int:
    global begun, refused
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setblocking(False)
    at = start
    while goes_on():
        for _ in range(500):
            at += 1
            try:
                sender.sendto(b"x", (f"{prefix}{1 + (at // 50_000) % 250}", 2_000 + at % 50_000))
                begun += 1
            except BlockingIOError:
                # Nobody has refused it: those before it wait for a processor.
                time.sleep(0.001)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    time.sleep(0.001)
                else:
                    refused += 1
        count()
    sender.close()
    return at


def streams(hold: bool, protocol: int) -> None:
    global begun, refused
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    port = listener.getsockname()[1]
    kept = []
    most_kept = min(hard, 100_000) - 64
    while going() and len(kept) < most_kept:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        client.settimeout(0.02)
        try:
            # Ports of many addresses: those of one would be used up.
            client.bind((f"127.0.{1 + begun // 20_000}.1", 0))
            client.connect(("127.0.0.1", port))
            other, _ = listener.accept()
            begun += 1
            if hold:
                kept += [client, other]
            else:
                client.close()
                other.close()
        except OSError:
            refused += 1
            client.close()
        if (begun + refused) % 100 == 0:
            count()


def pairs() -> None:
    global begun, refused
    number = 600

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        return made

    ours, others = [bound() for _ in range(number)], [bound() for _ in range(number)]
    addresses = [one.getsockname() for one in ours]
    while going():
        for other in others:
            to = other.getsockname()
            for one, back in zip(ours, addresses):
                try:
                    one.sendto(b"x", to)
                    other.recv(1)
                    other.sendto(b"x", back)
                    one.recv(1)
                    begun += 1
                except OSError:
                    refused += 1
            count()
            if not going():
                break


if kind == "pairs":
    pairs()
elif kind == "datagrams":
    datagrams(more, 0, going)
elif kind == "closed":
    streams(False, 0)
elif kind == "held":
    streams(True, 0)
elif kind == "mptcp":
    streams(False, IPPROTO_MPTCP)
elif kind == "crowd":
    uid, at = int(more), 0
    while going():
        os.seteuid(uid)
        until = time.monotonic() + 0.01
        at = datagrams("127.0.0.", at, lambda: time.monotonic() < until)
        os.seteuid(0)
        uid = int(more) + (uid - int(more) + 1) % 1_000
count()
print(json.dumps({"begun": begun, "refused": refused, "most": most}))
