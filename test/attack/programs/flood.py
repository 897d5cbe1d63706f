#!/usr/bin/python3
"""Attacks on the proxy's time and memory, by one unprivileged user.

usage: flood.py KIND SECONDS PROCESSES [KIND'S OWN ARGUMENTS]
FLOOD_LEAST in the environment is what has to be done at the least, as JSON like {"connections": 5000}: where a slow machine has not
come to that in SECONDS, it goes on for up to 60 s more.
Prints one line of JSON when it is over: what was sent, so that a test can say that the attack took place.
"""
import errno
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

HOST, PORT = "169.254.169.254", 80
HEAD = "Host: 169.254.169.254\r\n"
TOKEN = f"PUT /latest/api/token HTTP/1.1\r\n{HEAD}X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n".encode()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
done = {"connections": 0, "refused": 0, "bytes": 0, "requests": 0, "answers": 0}
least = json.loads(os.environ.get("FLOOD_LEAST", "{}"))
MORE_SECONDS = 60


def going(end):
    """Whether the time is not over, or not enough was done and there is some time more."""
    now = time.monotonic()
    return now < end or (now < end + MORE_SECONDS and any(done[what] * processes < count for what, count in least.items()))


def connect(host=HOST, port=PORT, timeout=5.0):
    s = socket.socket()
    # A reset at the end: no TIME_WAIT, so that the attack is on the proxy and not on the node's ports.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.settimeout(timeout)
    s.connect((host, port))
    done["connections"] += 1
    return s


class Enough(Exception):
    """All that was wanted is done before the end."""


def tries(run, end):
    """Runs it again and again until the end, whatever the proxy does to us."""
    while going(end):
        try:
            run(end)
        except Enough:
            return
        except OSError:
            done["refused"] += 1


def storm(end):
    while going(end):
        connect().close()


def churn(end):
    """Connections that stay until more are open than one user may have: each new one makes the proxy close an old one."""
    held = []
    while going(end):
        held.append(connect())
        if len(held) > 3500:
            held.pop(0).close()


def burst(end):
    """Connections that are begun and not waited for, so that the queue of those to be accepted is always full.

    own arguments: [how many at once, default 2000 [`mptcp`: by MPTCP sockets; a number: by root, as the uids from there on]]
    """
    at_once = int(sys.argv[4]) if len(sys.argv) > 4 else 2000
    how = sys.argv[5] if len(sys.argv) > 5 else ""
    protocol = 262 if how == "mptcp" else 0
    held, made = [], 0
    while going(end):
        if how.isdigit() and made % 50 == 0:
            os.setresuid(0, 0, 0)
            uid = int(how) + made // 50 % 1000
            os.setresuid(uid, uid, 0)
        made += 1
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.setblocking(False)
        if s.connect_ex((HOST, PORT)) in (0, errno.EINPROGRESS):
            done["connections"] += 1
        else:
            done["refused"] += 1
        held.append(s)
        if len(held) > at_once:
            held.pop(0).close()


def idle(end):
    """As many connections as we may have, each silent."""
    held = []
    wanted = int(sys.argv[4])
    while going(end) and len(held) < wanted:
        try:
            held.append(connect())
        except OSError:
            done["refused"] += 1
            time.sleep(0.01)
    time.sleep(max(0, end - time.monotonic()))


def drip(end):
    """A thousand heads, one byte at a time."""
    head = b"GET /latest/meta-data/" + b"a" * 7000
    held = [(connect(), [0]) for _ in range(1000)]
    while going(end):
        sent = 0
        for s, at in held:
            try:
                sent += s.send(head[at[0]:at[0] + 1])
                at[0] += 1
            except OSError:
                done["refused"] += 1
        done["bytes"] += sent
        if sent == 0:
            # The proxy has ended them all.
            return


def body(end):
    """A gigabyte of body on each of many connections, announced or not."""
    announced = int(sys.argv[4])
    first = f"PUT /latest/api/token HTTP/1.1\r\n{HEAD}Content-Length: {announced}\r\n\r\n".encode()
    block = b"x" * 1_000_000
    held = []
    for _ in range(200):
        s = connect()
        s.sendall(first)
        s.setblocking(False)
        held.append(s)
    while going(end) and held:
        for s in list(held):
            try:
                done["bytes"] += s.send(block)
            except BlockingIOError:
                pass
            except OSError:
                done["refused"] += 1
                held.remove(s)
                s.close()


def pipeline(end):
    """Requests without end on many connections, and no answer is ever read."""
    request = {"tokens": TOKEN, "404": f"GET /latest/none HTTP/1.1\r\n{HEAD}\r\n".encode(),
               "tiny": b"G\r\n\r\n"}[sys.argv[4]]
    block = request * (500_000 // len(request))
    reads = len(sys.argv) > 5 and sys.argv[5] == "read"
    held = []
    count = 200
    while going(end):
        while len(held) < count and going(end):
            s = connect()
            s.setblocking(False)
            held.append([s, 0])
        for entry in list(held):
            s, at = entry
            try:
                sent = s.send(block[at:])
                entry[1] = (at + sent) % len(block)
                done["bytes"] += sent
            except BlockingIOError:
                pass
            except OSError:
                done["refused"] += 1
                held.remove(entry)
                s.close()
                continue
            if reads:
                try:
                    got = s.recv(1_000_000)
                    done["answers"] += got.count(b"HTTP/1.1 ")
                except BlockingIOError:
                    pass
                except OSError:
                    held.remove(entry)
                    s.close()


def asking(lines):
    """Keeps many connections busy with one request after the other, each answered before the next."""
    def run(end):
        number = 0
        poll = select.epoll()
        held = {}
        for _ in range(100):
            s = connect()
            s.setblocking(False)
            held[s.fileno()] = s
            poll.register(s, select.EPOLLIN)
            s.send(lines(number))
            number += 1
        try:
            while going(end) and held:
                for fd, _ in poll.poll(0.2):
                    s = held[fd]
                    got = s.recv(1_000_000)
                    if not got:
                        poll.unregister(fd)
                        del held[fd]
                        s.close()
                        continue
                    done["answers"] += got.count(b"HTTP/1.1 ")
                    s.send(lines(number))
                    number += 1
        finally:
            for s in held.values():
                s.close()
    return run


def got(path):
    return f"GET {path} HTTP/1.1\r\n{HEAD}\r\n".encode()


def paths(end):
    """Metadata paths that nobody has asked for: each is a question for the node's own service."""
    base = os.getpid()
    token_connection = connect()
    token_connection.send(TOKEN)
    token = token_connection.recv(65536).partition(b"\r\n\r\n")[2].decode()[:56]
    line = f"X-aws-ec2-metadata-token: {token}\r\n"
    asking(lambda n: f"GET /latest/meta-data/tags/instance/{base}-{n} HTTP/1.1\r\n{HEAD}{line}\r\n".encode())(end)


def metrics(end):
    """The metrics' own port: as many connections as it takes, each asking."""
    held = []
    request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    while going(end):
        if len(held) < 4000:
            try:
                s = connect("127.0.0.1", 9254)
                s.setblocking(False)
                held.append(s)
            except OSError:
                done["refused"] += 1
        for s in held[-50:]:
            try:
                s.send(request)
                s.recv(1_000_000)
            except BlockingIOError:
                pass
            except OSError:
                done["refused"] += 1
                held.remove(s)


def subordinates(end):
    """Run by root, to stand for newuidmap: as hundreds of subordinate uids, each with connections and requests."""
    first, count = int(sys.argv[4]), int(sys.argv[5])
    held = []
    request = got("/latest/none")
    for uid in range(first, first + count):
        # The kernel asks who made the socket, so one process can make them all.
        os.setresuid(uid, uid, 0)
        for _ in range(20):
            try:
                s = connect()
                s.setblocking(False)
                held.append(s)
            except OSError:
                done["refused"] += 1
        os.setresuid(0, 0, 0)
        if not going(end):
            break
    while going(end):
        for s in list(held):
            try:
                s.send(request)
                done["requests"] += 1
                s.recv(65536)
            except BlockingIOError:
                pass
            except OSError:
                held.remove(s)
                s.close()


def uids(end):
    """Run by root, to stand for newuidmap: so many connections, twenty of each subordinate uid, each kept after one answer.

    own arguments: the first uid, how many connections
    """
    first, wanted = int(sys.argv[4]), int(sys.argv[5])
    held = []
    request = got("/latest/none")
    while len(held) < wanted and time.monotonic() < end:
        os.setresuid(0, 0, 0)
        uid = first + len(held) // 20
        os.setresuid(uid, uid, 0)
        for _ in range(20):
            s = connect()
            s.send(request)
            held.append(s)
    # Until whoever counts them has looked.
    time.sleep(1)
    raise Enough


def leavers(end):
    """Asks for what takes time, and is gone: the connection is free again, and what was asked for goes on."""
    request = got("/latest/meta-data/iam/security-credentials/ImdsProxyTestRole")
    held = []
    while going(end):
        s = connect()
        s.send(request)
        done["requests"] += 1
        held.append(s)
        if len(held) > 300:
            held.pop(0).close()


def lists(end):
    """Asks for the role's name, again and again: each wants the credentials to be there when they are asked for."""
    asking(lambda n: got("/latest/meta-data/iam/security-credentials/"))(end)


def crowd(end):
    """Run by root, to stand for accounts that act together: each process is one of them, with as many connections as it
    gets, all of which have something to be read all the time: half of them bytes of a head, half of them requests."""
    uid = int(sys.argv[4]) + os.getpid() % 1000
    os.setresuid(uid, uid, uid)
    first, parts = [b"GET /", b""], [b"a", got("/latest/none")]
    # Each is begun and used in turn: a slow machine, on which the first would be over before the last is there, attacks as well.
    held = [None] * 1020
    while going(end):
        for at, s in enumerate(held):
            try:
                if s is None:
                    s = held[at] = connect()
                    s.setblocking(False)
                    done["bytes"] += s.send(first[at % 2])
                done["bytes"] += s.send(parts[at % 2])
            except BlockingIOError:
                pass
            except OSError:
                done["refused"] += 1
                held[at] = None


KINDS = {
    "crowd": crowd,
    "leavers": leavers,
    "lists": lists,
    "subordinates": subordinates,
    "uids": uids,
    "storm": storm,
    "churn": churn,
    "burst": burst,
    "idle": idle,
    "drip": drip,
    "body": body,
    "pipeline": pipeline,
    "tokens": asking(lambda n: TOKEN),
    "404": asking(lambda n: got(f"/latest/none-{n}")),
    "paths": paths,
    "metrics": metrics,
}

seconds, processes = float(sys.argv[2]), int(sys.argv[3])
readers = []
for _ in range(processes):
    reader, writer = os.pipe()
    if os.fork() == 0:
        signal.alarm(int(seconds) + MORE_SECONDS + 20)
        tries(KINDS[sys.argv[1]], time.monotonic() + seconds)
        os.write(writer, json.dumps(done).encode())
        os._exit(0)
    os.close(writer)
    readers.append(reader)
total = dict.fromkeys(done, 0)
for reader in readers:
    text = b""
    while part := os.read(reader, 65536):
        text += part
    for key, value in json.loads(text or "{}").items():
        total[key] += value
print(json.dumps(total))
