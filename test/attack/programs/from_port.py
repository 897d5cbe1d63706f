#!/usr/bin/python3
"""Asks the metadata service for its list of metadata from one source port.

usage: from_port.py ADDRESS PORT SECONDS
Prints a line of JSON: the first line of the answer, or the name of the error. The socket leaves no TIME_WAIT behind.
"""
import json
import socket
import struct
import sys

address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Closed by a reset, so that the next run can have the port at once.
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.bind(("", port))
    one.settimeout(seconds)
    try:
        one.connect((address, 80))
        one.sendall(b"GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = one.recv(4096).decode("latin1").split("\r\n")[0]
    except OSError as error:
        answer = type(error).__name__
print(json.dumps(answer))
