#!/usr/bin/python3
"""Clients that ask for credentials without rest, and count what becomes of each try by kind.

usage: load.py ROLE DIRECTORY. Ends when DIRECTORY/stop exists. Each worker writes one line of JSON to DIRECTORY/PID.json, and before that
one byte for each ten tries to DIRECTORY/PID.tens.
Workers: five that ask with one token, each request on a connection of its own; two that fetch a token for each; one that has no
token (IMDSv1). A try that is answered with 200 is `ok`; `refused`, `reset`, `closed`, `timeout` and each status are counted apart.
"""
import os
import socket
import sys
import time

ROLE, DIRECTORY = sys.argv[1], sys.argv[2]
PATH = f"/latest/meta-data/iam/security-credentials/{ROLE}"


def ask(method, path, header):
    """(kind of outcome, body)"""
    s = socket.socket()
    s.settimeout(20)
    try:
        s.connect(("169.254.169.254", 80))
        s.sendall(f"{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{header}\r\n".encode())
        got = b""
        while piece := s.recv(65536):
            got += piece
        if not got:
            return "closed", b""
        head, _, body = got.partition(b"\r\n\r\n")
        status = head.split(b" ")[1].decode()
        return ("ok" if status == "200" else status), body
    except ConnectionRefusedError:
        return "refused", b""
    except ConnectionResetError:
        return "reset", b""
    except TimeoutError:
        return "timeout", b""
    finally:
        s.close()


def token():
    kind, body = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n")
    return kind, f"X-aws-ec2-metadata-token: {body.decode()}\r\n"


def work(kind):
    counts, longest, tries = {}, 0.0, 0
    _, kept = token()
    tens = open(f"{DIRECTORY}/{os.getpid()}.tens", "wb", buffering=0)
    open(f"{DIRECTORY}/{os.getpid()}.up", "w").close()
    while not os.path.exists(f"{DIRECTORY}/stop"):
        began = time.monotonic()
        header = "" if kind == "v1" else kept
        if kind == "fresh":
            outcome, header = token()
            if outcome != "ok":
                counts[f"token {outcome}"] = counts.get(f"token {outcome}", 0) + 1
                continue
        outcome, _ = ask("GET", PATH, header)
        counts[outcome] = counts.get(outcome, 0) + 1
        longest = max(longest, time.monotonic() - began)
        tries += 1
        if tries % 10 == 0:
            tens.write(b".")
        time.sleep(0.004)
    with open(f"{DIRECTORY}/{os.getpid()}.json", "w") as out:
        # By hand: the node's Python is the small one, without its modules.
        pairs = ", ".join(f'"{name}": {count}' for name, count in counts.items())
        out.write(f'{{"kind": "{kind}", "counts": {{{pairs}}}, "longestMs": {round(longest * 1000)}}}')


for kind in ["kept"] * 5 + ["fresh"] * 2 + ["v1"]:
    if os.fork() == 0:
        work(kind)
        os._exit(0)
for _ in range(8):
    os.wait()
