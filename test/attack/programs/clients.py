#!/usr/bin/python3
"""Clients of one user that all begin at once, as the processes of a large job do.

usage: clients.py PROCESSES CLIENTS
Each process has so many clients. Each client makes three requests (a token, the role's name, the credentials), each on a connection of
its own that is begun as soon as the one before has ended, and waits as long as it takes. So all clients have a connection open at any
time. Prints one line of JSON: seconds until the last has ended, requests that were answered, the slowest and the median in milliseconds,
SYNs that were sent again, and failures by what they were.
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
LIST = "/latest/meta-data/iam/security-credentials/"
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def head(method, path, headers=""):
    return f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{headers}\r\n".encode()


class Failure(Exception):
    pass


def client():
    """Yields each request's bytes, and is sent the answer's body."""
    token = yield head("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
    header = f"X-aws-ec2-metadata-token: {token}\r\n"
    role = yield head("GET", LIST, header)
    body = yield head("GET", LIST + role, header)
    code = json.loads(body)["Code"]
    if code != "Success":
        raise Failure(code)


class Request:
    def __init__(self, whose, data):
        self.whose, self.data, self.answer = whose, data, b""
        self.started = time.monotonic()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        code = self.socket.connect_ex((HOST, PORT))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))

    def go_on(self):
        """Returns the body once the answer is whole, else None; raises OSError."""
        if self.data:
            self.data = self.data[self.socket.send(self.data):]
            return None
        while True:
            try:
                part = self.socket.recv(65536)
            except BlockingIOError:
                return None
            if not part:
                break
            self.answer += part
        parts = self.answer.split(b" ", 2)
        if len(parts) < 2 or parts[1] != b"200":
            raise Failure(f"status {parts[1].decode('latin1')}" if len(parts) > 1 else "no answer")
        return self.answer.partition(b"\r\n\r\n")[2].decode("latin1")


def process(count):
    poll, requests, took, failures, resent = select.epoll(), {}, [], {}, 0

    def failed(error):
        said = f"{type(error).__name__}: {error}"[:80]
        failures[said] = failures.get(said, 0) + 1

    def begin(whose, body=None):
        try:
            request = Request(whose, whose.send(body))
            requests[request.socket.fileno()] = request
            poll.register(request.socket, select.EPOLLIN | select.EPOLLOUT)
        except StopIteration:
            pass
        except (OSError, ValueError, Failure) as error:
            failed(error)

    for _ in range(count):
        begin(client())
    while requests:
        for fd, _ in poll.poll():
            request = requests[fd]
            try:
                body = request.go_on()
                if body is None:
                    poll.modify(fd, select.EPOLLIN if not request.data else select.EPOLLIN | select.EPOLLOUT)
                    continue
                took.append((time.monotonic() - request.started) * 1000)
            except (OSError, Failure) as error:
                body = None
                failed(error)
            # tcpi_total_retrans of struct tcp_info (linux/tcp.h).
            resent += struct.unpack_from("I", request.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
            poll.unregister(fd)
            del requests[fd]
            request.socket.close()
            if body is not None:
                begin(request.whose, body)
    return [took, failures, resent]


count, clients = int(sys.argv[1]), int(sys.argv[2])
began, readers = time.monotonic(), []
for _ in range(count):
    reader, writer = os.pipe()
    if os.fork() == 0:
        signal.alarm(300)
        with os.fdopen(writer, "w") as out:
            json.dump(process(clients), out)
        os._exit(0)
    os.close(writer)
    readers.append(reader)
times, failures, resent = [], {}, 0
for reader in readers:
    with os.fdopen(reader) as part:
        took, said, again = json.load(part)
    times += took
    resent += again
    for what, often in said.items():
        failures[what] = failures.get(what, 0) + often
times.sort()
print(json.dumps({"seconds": time.monotonic() - began, "requests": len(times), "maxMs": times[-1], "medianMs": times[len(times) // 2],
                  "resent": resent, "failures": failures}))
