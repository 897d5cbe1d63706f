#!/usr/bin/python3
"""An honest client that keeps one connection and asks for its role on it again and again.

usage: kept.py SECONDS PAUSE_MS
Prints `ready` when it has had its first answer, and at the end one line of JSON: requests, the milliseconds of the longest one, and
what came in place of the role, by what it was.
"""
import json
import sys
import time

from imds import LIST, METADATA4, PORT, ask, outcome, tcp

seconds, pause = float(sys.argv[1]), float(sys.argv[2]) / 1000
s = tcp(timeout=20)
s.connect((METADATA4, PORT))
_, token = ask(s, "/latest/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 600\r\n")
header = "X-aws-ec2-metadata-token: " + (token if isinstance(token, str) else token.decode("latin1")) + "\r\n"
wanted = outcome(lambda: ask(s, LIST, "GET", header))
print("ready", flush=True)
requests, longest, failures = 0, 0.0, {}
end = time.monotonic() + seconds
while time.monotonic() < end:
    started = time.monotonic()
    found = outcome(lambda: ask(s, LIST, "GET", header))
    longest = max(longest, time.monotonic() - started)
    requests += 1
    if found != wanted:
        failures[found] = failures.get(found, 0) + 1
    time.sleep(pause)
print(json.dumps({"first": wanted, "requests": requests, "maxMs": round(longest * 1000, 1), "failures": failures}))
