#!/usr/bin/python3
"""A victim who keeps one connection from a port that everybody knows, and asks on it over and over.

usage: holder.py SECONDS SOURCE_ADDRESS SOURCE_PORT HOST PORT
SOURCE_PORT 0: any.
Says `ready` when it is connected; at the end one line of JSON: how often each role was given.
"""
import json
import socket
import sys
import time

from imds import outcome, role, tcp

seconds, source, source_port, host, port = float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
s = tcp(socket.AF_INET6 if ":" in source else socket.AF_INET)
if source_port == 0:
    # IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect(), and can be one that others have to another destination.
    s.setsockopt(socket.IPPROTO_IP, 24, 1)
s.bind((source, source_port))
s.connect((host, port))
roles = {}
print("ready", flush=True)
end = time.monotonic() + seconds
while time.monotonic() < end:
    key = outcome(lambda: role(s))
    roles[key] = roles.get(key, 0) + 1
    time.sleep(0.01)
print(json.dumps(roles))
