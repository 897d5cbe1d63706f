#!/usr/bin/python3
"""An honest client that asks in a loop and takes the time of every request.

usage: victim.py SECONDS PAUSE_MS [BASE_HOST [PORT [ROUNDS]]]
With ROUNDS it goes on for up to 30 s more where a slow machine has not come to so many in SECONDS.
Each round is what an SDK does, on connections of its own: a token, the list of roles, the credentials.
Prints one line of JSON: rounds, the longest and the 99th percentile of one request in milliseconds, how often a SYN was sent
again because the first was dropped, failures by what they were, and the names of the roles and of the sessions that it was given.
"""
import json
import socket
import struct
import sys
import time

seconds, pause_ms = float(sys.argv[1]), float(sys.argv[2])
host = sys.argv[3] if len(sys.argv) > 3 else "169.254.169.254"
port = int(sys.argv[4]) if len(sys.argv) > 4 else 80
least = int(sys.argv[5]) if len(sys.argv) > 5 else 0
took, failures, roles, sessions = [], {}, {}, {}
resent = 0


def retransmits(connection):
    """tcpi_total_retrans of struct tcp_info (linux/tcp.h); before anything is written, it is SYNs."""
    return struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


def ask(method, path, headers=""):
    """One request on a connection of its own. Returns (status, body); raises OSError."""
    global resent
    started = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.settimeout(10)
            resent += retransmits(connection)
            head = f"{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n"
            connection.sendall(head.encode())
            answer = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
    finally:
        took.append((time.monotonic() - started) * 1000)
    head, _, body = answer.partition(b"\r\n\r\n")
    parts = head.split(b" ")
    if len(parts) < 2:
        raise OSError("no answer")
    return int(parts[1]), body.decode("latin1")


def count(table, key):
    table[key] = table.get(key, 0) + 1


rounds = 0
token = None
end = time.monotonic() + seconds
while time.monotonic() < end or (rounds < least and time.monotonic() < end + 30):
    rounds += 1
    try:
        status, token = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n")
        if status != 200:
            raise OSError(f"token {status}")
        header = f"X-aws-ec2-metadata-token: {token}\r\n"
        status, role = ask("GET", "/latest/meta-data/iam/security-credentials/", header)
        if status != 200:
            raise OSError(f"list {status}")
        count(roles, role)
        status, body = ask("GET", f"/latest/meta-data/iam/security-credentials/{role}", header)
        if status != 200:
            raise OSError(f"credentials {status}")
        found = json.loads(body)
        # The stand-in's secret key names what it was made for: SESSION/ROLE/SESSION NAME/…
        count(sessions, "/".join(found.get("SecretAccessKey", found["Code"]).split("/")[:3]))
    except (OSError, ValueError) as error:
        count(failures, f"{type(error).__name__}: {error}"[:80])
    if pause_ms > 0:
        time.sleep(pause_ms / 1000)

took.sort()
print(json.dumps({
    "rounds": rounds,
    "requests": len(took),
    "maxMs": round(took[-1], 1) if took else 0,
    "resent": resent,
    "p99Ms": round(took[int(len(took) * 0.99)], 1) if took else 0,
    "failures": failures,
    "roles": roles,
    "sessions": sessions,
}))
