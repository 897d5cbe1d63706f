#!/usr/bin/python3
"""Takes a port and answers as a metadata service does, with credentials and an identity of its own.

usage: impostor.py ADDRESS PORT [OPTION…]
OPTION: SO_REUSEPORT, SO_REUSEADDR; `mptcp` listens by MPTCP; `late=SECONDS` sleeps before each accept; `backlog=N` is the listener's; `close` ends each
connection after its answer. Says `listening` or the error; each request that came in is one further line.
"""
import json
import socket
import sys
import threading
import time

from imds import outcome

IPPROTO_MPTCP = 262
CREDENTIALS = json.dumps({"Code": "Success", "LastUpdated": "2030-01-01T00:00:00Z", "Type": "AWS-HMAC",
                          "AccessKeyId": "ASIAIMPOSTOR", "SecretAccessKey": "impostor", "Token": "impostor",
                          "Expiration": "2099-01-01T00:00:00Z"})


def answer_to(line, close=False):
    """The answer to a request's first line."""
    path = line.split(" ")[1]
    body = ("A" * 56 if "token" in path else CREDENTIALS if path.endswith("/Impostor") else
            "Impostor" if "security-credentials" in path else
            "i-0impostor00000000" if path.endswith("/instance-id") else
            '{"region": "impostor-region-1"}' if path.endswith("/document") else "impostor-region-1")
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
    answer += "Connection: close\r\n" if close else ""
    answer += "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n\r\n" + body
    return answer.encode()


def serve_noting(connection, seen):
    """Serves until the other side ends, and appends to `seen` what it was sent, in latin-1."""
    got = b""
    try:
        while part := connection.recv(65536):
            seen.append(part.decode("latin-1"))
            got += part
            while b"\r\n\r\n" in got:
                head, _, got = got.partition(b"\r\n\r\n")
                connection.sendall(answer_to(head.split(b"\r\n")[0].decode("latin-1")))
    except OSError:
        pass
    finally:
        connection.close()


def serve(connection, close):
    got = b""
    while part := connection.recv(65536):
        got += part
        while b"\r\n\r\n" in got:
            head, _, got = got.partition(b"\r\n\r\n")
            line = head.split(b"\r\n")[0].decode()
            print(line, flush=True)
            connection.sendall(answer_to(line, close))
            if close:
                connection.close()
                return


def main():
    address, port, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    values = dict(option.split("=") for option in options if "=" in option)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if "mptcp" in options else 0)
    for option in options:
        if option.startswith("SO_"):
            s.setsockopt(socket.SOL_SOCKET, {"SO_REUSEPORT": 15, "SO_REUSEADDR": 2}[option], 1)
    said = outcome(lambda: (s.bind((address, port)), s.listen(int(values.get("backlog", 128))), "listening")[2])
    print(said, flush=True)
    while said == "listening":
        time.sleep(float(values.get("late", 0)))
        connection, _ = s.accept()
        threading.Thread(target=serve, args=(connection, "close" in options), daemon=True).start()


if __name__ == "__main__":
    main()
