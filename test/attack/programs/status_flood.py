"""Connects to a socket of `imdsproxy status` as often as it may, sends what nobody asked for, and reads nothing.

Usage: status_flood.py PATH CONNECTIONS. Prints a line of JSON once it has connected: how many connections it has. Then it connects
and closes without rest until it is ended, and keeps those.
"""
import json, socket, sys

path, wanted = sys.argv[1], int(sys.argv[2])
held = []
refused = 0
for _ in range(wanted):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    try:
        s.connect(path)
        s.send(b"GET /bob HTTP/1.1\r\nHost: root\r\n\r\n" + b"x" * 1000)
    except OSError:
        refused += 1
    held.append(s)
print(json.dumps({"connected": len(held) - refused}), flush=True)
while True:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(1)
    try:
        s.connect(path)
    except OSError:
        pass
    s.close()
