#!/usr/bin/python3
"""Takes a port and answers as a metadata service does, with credentials of its own.

usage: impostor.py ADDRESS PORT [OPTION…]
OPTION: SO_REUSEPORT, SO_REUSEADDR, v6. Says `listening` or the error; each request that came in is one further line.
"""
import json
import socket
import sys
import threading

from imds import outcome

address, port, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
for option in options:
    s.setsockopt(socket.SOL_SOCKET, {"SO_REUSEPORT": 15, "SO_REUSEADDR": 2}[option], 1)
said = outcome(lambda: (s.bind((address, port)), s.listen(), "listening")[2])
print(said, flush=True)
if said != "listening":
    sys.exit(0)

CREDENTIALS = json.dumps({"Code": "Success", "LastUpdated": "2030-01-01T00:00:00Z", "Type": "AWS-HMAC",
                          "AccessKeyId": "ASIAIMPOSTOR", "SecretAccessKey": "impostor", "Token": "impostor",
                          "Expiration": "2099-01-01T00:00:00Z"})


def serve(connection):
    got = b""
    while part := connection.recv(65536):
        got += part
        while b"\r\n\r\n" in got:
            head, _, got = got.partition(b"\r\n\r\n")
            line = head.split(b"\r\n")[0].decode()
            print(line, flush=True)
            path = line.split(" ")[1]
            body = ("A" * 56 if "token" in path else CREDENTIALS if path.endswith("/Evil") else
                    "Evil" if "security-credentials" in path else "evil-region-1")
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
            answer += "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n\r\n" + body
            connection.sendall(answer.encode())


while True:
    connection, _ = s.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
