#!/usr/bin/python3
"""Asks for its credentials again and again, and makes no process or thread for it.

usage: steady.py START STOP REPORT
Begins when the file START is there, and ends when STOP is. REPORT gets a line for each round: the name of the role whose credentials
came, or what came in their place.
"""
import json
import os
import socket
import sys
import time

from imds import LIST, METADATA4, PORT, answer, request

start, stop, report = sys.argv[1:4]


def ask(method, path, headers=""):
    # Short: a SYN that was tracked while the redirect was flushed leads nowhere, however often it is sent again.
    with socket.create_connection((METADATA4, PORT), timeout=3) as s:
        s.settimeout(20)
        s.sendall(request(method, path, headers, close=True))
        status, body = answer(s)
    if status != 200:
        raise OSError(f"status {status}")
    return body if isinstance(body, str) else body.decode("latin1")


def credentials():
    token = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
    header = f"X-aws-ec2-metadata-token: {token}\r\n"
    role = ask("GET", LIST, header)
    code = json.loads(ask("GET", LIST + role, header))["Code"]
    return role if code == "Success" else f"code {code}"


while not os.path.exists(start):
    time.sleep(0.02)
with open(report, "a") as file:
    while not os.path.exists(stop):
        try:
            said = credentials()
        except (OSError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
        print(said, file=file, flush=True)
        time.sleep(0.01)
