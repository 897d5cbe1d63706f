"""Asks who it is by heads that are all different, so that those of others are pushed out of the proxy's memory of heads, and by
the head that everybody sends in between; prints how often each uid was told, as one line of JSON.

usage: heads.py COUNT
"""
import collections
import json
import sys

from imds import METADATA4, PORT, WHOAMI, ask, tcp

told = collections.Counter()
with tcp(timeout=60) as s:
    s.connect((METADATA4, PORT))
    for number in range(int(sys.argv[1])):
        # One in four is the one that the others send as well.
        status, body = ask(s, WHOAMI, headers="" if number % 4 == 0 else f"X-Number: {number}\r\n")
        told[json.loads(body)["uid"] if status == 200 else f"status {status}"] += 1
print(json.dumps(told))
