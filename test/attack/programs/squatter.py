#!/usr/bin/python3
"""Takes a port for a millisecond at a time, as often as it is free, and answers who comes with credentials of its own.

usage: squatter.py ADDRESS PORT. Says `listening` when it had the port for the first time; each byte string that it was sent is
one further line.
"""
import socket
import sys
import time

address, port = sys.argv[1], int(sys.argv[2])
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n{"AccessKeyId":"ASIAIMPOSTOR"}\n'
had = False
while True:
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((address, port))
        s.listen()
    except OSError:
        s.close()
        time.sleep(0.0005)
        continue
    if not had:
        print("listening", flush=True)
        had = True
    s.settimeout(0.001)
    try:
        connection, _ = s.accept()
        connection.settimeout(0.05)
        print(connection.recv(65536), flush=True)
        connection.sendall(ANSWER)
        connection.close()
    except OSError:
        pass
    s.close()
    time.sleep(0.0005)
