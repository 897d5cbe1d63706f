#!/usr/bin/python3
"""Asks for tokens on one connection as fast as it can, each lifetime twice, and one lifetime again and again between them.

usage: tokens_in_turns.py SECONDS LIFETIMES
Prints a line of JSON: for each lifetime that was asked for, the lifetimes that the answers named and their tokens.
"""
import collections
import http.client
import json
import sys
import time

HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
OFTEN = 21600
ends = time.monotonic() + float(sys.argv[1])
lifetimes = int(sys.argv[2])
connection = http.client.HTTPConnection("169.254.169.254", 80, timeout=20)
found = collections.defaultdict(set)


def ask(seconds):
    connection.request("PUT", "/latest/api/token", headers={HEADER: str(seconds)})
    answer = connection.getresponse()
    found[seconds].add((answer.getheader(HEADER), answer.read().decode()))


turn = 0
while time.monotonic() < ends:
    for seconds in (OFTEN, OFTEN - 1 - turn % lifetimes, OFTEN - 1 - turn % lifetimes, OFTEN):
        ask(seconds)
    turn += 1
print(json.dumps({seconds: sorted(answers) for seconds, answers in found.items()}))
