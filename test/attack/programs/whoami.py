#!/usr/bin/python3
"""Prints for whom the proxy takes this process: one line of JSON, the document or how it was refused.

usage: whoami.py [FORKS]
With FORKS, that many processes ask at once; prints how often each uid was told.
"""
import json
import os
import sys

from imds import METADATA4, WHOAMI, ask, identity, outcome, tcp


def once():
    with tcp() as s:
        s.connect((METADATA4, 80))
        status, body = ask(s, WHOAMI)
        return json.loads(body) if status == 200 else {"refused": status}


if len(sys.argv) < 2:
    try:
        print(json.dumps(once()))
    except OSError as error:
        print(json.dumps({"refused": error.strerror or str(error)}))
else:
    told = {}
    reader, writer = os.pipe()
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            # Hundreds at once take a busy machine some seconds.
            with tcp(timeout=30) as s:
                key = outcome(lambda: (s.connect((METADATA4, 80)), identity(s))[1])
            os.write(writer, f"{key}\n".encode())
            os._exit(0)
    os.close(writer)
    text = b""
    while part := os.read(reader, 65536):
        text += part
    for key in text.decode().split("\n")[:-1]:
        told[key] = told.get(key, 0) + 1
    print(json.dumps(told))
