#!/usr/bin/python3
"""A victim who asks who they are, over and over, on a new connection each time.

usage: asker.py HOST PORT SECONDS
Prints one line of JSON: how often each identity was told to us.
"""
import json
import socket
import struct
import sys
import time

from imds import identity, outcome

host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
identities = {}
end = time.monotonic() + seconds
while time.monotonic() < end:
    def once():
        with socket.create_connection((host, port), timeout=5) as s:
            # No TIME_WAIT: the ports are few where this runs.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return identity(s)
    key = outcome(once)
    identities[key] = identities.get(key, 0) + 1
    time.sleep(0.002)
print(json.dumps({"identities": identities}))
