"""Gives a socket of its own away by fchown(2), and asks by it who it is: one line of JSON as whoami.py prints it.

usage: chown.py UID
The kernel reports a socket with the owner of its inode (sockfs_setattr in net/socket.c).
"""
import json
import os
import sys

from imds import METADATA4, PORT, WHOAMI, ask, tcp

with tcp() as s:
    try:
        os.fchown(s.fileno(), int(sys.argv[1]), -1)
        s.connect((METADATA4, PORT))
        status, body = ask(s, WHOAMI)
        print(json.dumps(json.loads(body) if status == 200 else {"refused": status}))
    except OSError as error:
        print(json.dumps({"refused": error.strerror}))
