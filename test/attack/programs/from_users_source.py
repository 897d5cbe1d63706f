#!/usr/bin/python3
"""Tries to make tracked connections from the source address of users' connections, past the redirect: by UDP, by TCP, and by TCP bound to lo.

usage: from_users_source.py TIMES
Prints one line of JSON: how often each way ended how.
"""
import collections
import json
import socket
import sys

SOURCE = "127.169.254.1"
AGENT = "169.254.0.2"
found = collections.Counter()
for i in range(int(sys.argv[1])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((SOURCE, 20000 + i))
        try:
            one.sendto(b"x", (AGENT, 9081))
            found["sent"] += 1
        except OSError as error:
            found[type(error).__name__] += 1
    for device in (b"", b"lo\0"):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.settimeout(0.01)
            try:
                if device:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
                one.bind((SOURCE, 30000 + i))
                one.connect((AGENT, 9081))
                found["connected"] += 1
            except OSError as error:
                found[type(error).__name__] += 1
print(json.dumps(found))
