#!/usr/bin/python3
"""Asks for credentials once, with the time limits of an SDK, and prints what came of it as one line of JSON.

usage: first-try.py v1|v2 SECONDS-FOR-EACH-ANSWER [TRIES-OF-EACH-REQUEST]

The limits: 1 s and one try in botocore, Java v2, Rust and JS v3; 0.5 s for the head of an answer and three tries in Go v2.
"""
import json
import socket
import sys
import time

HOST = "169.254.169.254"
LIST = "/latest/meta-data/iam/security-credentials/"
version, limit = sys.argv[1], float(sys.argv[2])
tries = int(sys.argv[3]) if len(sys.argv) > 3 else 1
took = []


def once(method, path, headers):
    """One request on a connection of its own; the limit is for the whole answer."""
    end = time.monotonic() + limit
    with socket.create_connection((HOST, 80), limit) as s:
        s.sendall((f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
                   + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode())
        got = b""
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            s.settimeout(left)
            part = s.recv(65536)
            if not part:
                break
            got += part
    head, _, body = got.decode("latin1").partition("\r\n\r\n")
    status = int(head.split(" ")[1])
    if status != 200:
        raise OSError(f"status {status}")
    return body


def ask(method, path, headers):
    began = time.monotonic()
    for left in reversed(range(tries)):
        try:
            body = once(method, path, headers)
            took.append(round((time.monotonic() - began) * 1000))
            return body
        except OSError:
            if left == 0:
                took.append(round((time.monotonic() - began) * 1000))
                raise


try:
    headers = {}
    if version == "v2":
        headers["X-aws-ec2-metadata-token"] = ask("PUT", "/latest/api/token",
                                                  {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
    role = ask("GET", LIST, headers)
    outcome = json.loads(ask("GET", LIST + role, headers))["Code"]
except (OSError, KeyError, ValueError) as error:
    outcome = str(error) or type(error).__name__
print(json.dumps({"outcome": outcome, "tookMs": took}))
