#!/usr/bin/python3
"""Connects to every port of a range at 127.0.0.1, again and again, and resets each connection.

usage: hammer.py FIRST LAST STOP
STOP is a file whose being there ends it. Prints a `.` whenever each port has been tried once more.
"""
import os
import socket
import struct
import sys

first, last, stop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
while not os.path.exists(stop):
    for port in range(first, last + 1):
        with socket.socket() as s:
            # Closed by a reset.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                s.connect(("127.0.0.1", port))
            except OSError:
                pass
    print(".", end="", flush=True)
