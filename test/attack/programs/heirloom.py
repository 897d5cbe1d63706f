#!/usr/bin/python3
"""A TCP socket that root made, in the hands of a process that root started and that has become a user.

usage: heirloom.py UID KIND, run by root
KIND: `fresh` (never used), `listening` (what a system socket unit or a server that gives up root hands down), `accepted` (what
inetd hands down). Disconnects it where it has to (connect(2), AF_UNSPEC), connects it to the metadata address, and asks for
the role. Prints one line of JSON.
"""
import ctypes
import json
import os
import socket
import struct
import sys

from imds import LIST, METADATA4, ask

uid, kind = int(sys.argv[1]), sys.argv[2]
OURS = "10.77.0.2"
s = socket.socket()
if kind == "listening":
    s.bind(("0.0.0.0", 8080))
    s.listen()
elif kind == "accepted":
    listener = socket.socket()
    listener.bind((OURS, 8081))
    listener.listen()
    client = socket.create_connection((OURS, 8081))
    s, _ = listener.accept()
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
if kind != "fresh":
    ctypes.CDLL(None).connect(s.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)
s.settimeout(5)
s.connect((METADATA4, 80))
_, token = ask(s, "/latest/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
_, role = ask(s, LIST, headers=f"X-aws-ec2-metadata-token: {token}\r\n")
print(json.dumps({"uid": os.getuid(), "role": role}))
