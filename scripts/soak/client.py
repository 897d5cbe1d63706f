#!/usr/bin/python3
"""Asks for credentials without end, as an SDK does, and prints a line of JSON for each try.

usage: client.py SECONDS-BETWEEN-TRIES

As an ordinary user it also tries, now and then, what must not work: the node's role by its name, and the agent past the proxy. In
the environment: MARKER, which every secret of the node's role holds, and ROLE, that role's name.
"""
import json
import os
import random
import socket
import sys
import time

HOST = "169.254.169.254"
LIST = "/latest/meta-data/iam/security-credentials/"
TIMEOUT_S = 10
pause, marker, role = float(sys.argv[1]), os.environ["MARKER"], os.environ["ROLE"]
leaked = False


def once(method, path, headers, to=(HOST, 80)):
    """One request on a connection of its own: status and body."""
    global leaked
    with socket.create_connection(to, TIMEOUT_S) as s:
        s.settimeout(TIMEOUT_S)
        s.sendall((f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
                   + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode())
        got = b""
        while part := s.recv(65536):
            got += part
    if not got:
        raise ConnectionResetError
    head, _, body = got.decode("latin1").partition("\r\n\r\n")
    leaked = leaked or marker in body
    return int(head.split(" ")[1]), body


def attempt():
    status, token = once("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if status != 200:
        return {"step": "token", "status": status}
    headers = {"X-aws-ec2-metadata-token": token}
    status, name = once("GET", LIST, headers)
    if status != 200:
        return {"step": "list", "status": status}
    began = time.monotonic()
    status, body = once("GET", LIST + name, headers)
    took = (time.monotonic() - began) * 1000
    found = {"step": "credentials", "status": status, "ms": round(took, 2), "role": name}
    if status == 200:
        document = json.loads(body)
        found |= {"code": document["Code"], "key": document.get("AccessKeyId"), "ends": document.get("Expiration")}
    return found


def trespass():
    for to, headers in (((HOST, 80), {}), (("169.254.0.2", 9081), {})):
        try:
            once("GET", LIST + role, headers, to)
        except OSError:
            pass


while True:
    leaked = False
    at = time.time()
    try:
        result = attempt()
    except OSError as error:
        result = {"step": "connection", "status": 0, "error": type(error).__name__}
    if os.getuid() != 0 and random.random() < 0.1:
        trespass()
    print(json.dumps({"at": at * 1000, **result, "leaked": leaked}), flush=True)
    time.sleep(pause * (0.5 + random.random()))
