#!/usr/bin/python3
"""A job of many processes, each of which asks for its credentials as an SDK does.

usage: job.py PROCESSES AT_ONCE
Each process makes three requests (a token, the role's name, the credentials), each on a connection of its own, and waits for them as
long as it takes. Where AT_ONCE is no less than PROCESSES, all are woken at the same instant. Prints one line of JSON: the seconds until the last has ended, the slowest and the median request in milliseconds,
requests that took more than a second, and failures by what they were.
"""
import json
import os
import resource
import socket
import struct
import sys
import time

HOST, PORT, TIMEOUT = "169.254.169.254", 80, 60
LIST = "/latest/meta-data/iam/security-credentials/"
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def ask(took, method, path, headers=""):
    started = time.monotonic()
    with socket.create_connection((HOST, PORT), timeout=TIMEOUT) as s:
        s.sendall(f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{headers}\r\n".encode())
        answer = b""
        while part := s.recv(65536):
            answer += part
    took.append((time.monotonic() - started) * 1000)
    status = int(answer.split(b" ")[1])
    if status != 200:
        raise OSError(f"status {status}")
    return answer.partition(b"\r\n\r\n")[2].decode("latin1")


def process(start, give_back, out):
    if give_back is None:
        # The end of the pipe wakes all who read from it; a byte in it wakes one.
        os.close(start_writer)
    os.read(start, 1)
    took, said = [], ""
    try:
        token = ask(took, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
        header = f"X-aws-ec2-metadata-token: {token}\r\n"
        role = ask(took, "GET", LIST, header)
        if json.loads(ask(took, "GET", LIST + role, header))["Code"] != "Success":
            said = "no credentials"
    except (OSError, ValueError, IndexError) as error:
        said = f"{type(error).__name__}: {error}"
    text = json.dumps([took, said[:100]]).encode()
    os.write(out, struct.pack("<H", len(text)) + text)
    if give_back is not None:
        os.write(give_back, b"x")
    os._exit(0)


count, at_once = int(sys.argv[1]), int(sys.argv[2])
# Who has read a byte of it may run, and puts one back in the end.
start_reader, start_writer = os.pipe()
reader, writer = os.pipe()
for _ in range(count):
    if os.fork() == 0:
        process(start_reader, start_writer if at_once < count else None, writer)
os.close(writer)
began = time.monotonic()
if at_once < count:
    os.write(start_writer, b"x" * at_once)
else:
    os.close(start_writer)
got = b""
while part := os.read(reader, 1 << 20):
    got += part
seconds = time.monotonic() - began
times, failures, at = [], {}, 0
while at < len(got):
    length = struct.unpack_from("<H", got, at)[0]
    took, said = json.loads(got[at + 2:at + 2 + length])
    at += 2 + length
    times += took
    if said:
        failures[said] = failures.get(said, 0) + 1
times.sort()
print(json.dumps({"seconds": seconds, "requests": len(times), "maxMs": times[-1], "medianMs": times[len(times) // 2],
                  "overSecond": sum(t > 1000 for t in times), "failures": failures}))
