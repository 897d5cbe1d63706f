"""What the attack programs have in common: one HTTP request on a socket that is connected already."""
import json
import socket

METADATA4, METADATA6, PORT = "169.254.169.254", "fd00:ec2::254", 80
WHOAMI = "/imdsproxy/whoami"
LIST = "/latest/meta-data/iam/security-credentials/"


def request(method, path, headers="", close=False):
    """The bytes of a request."""
    connection = "close" if close else "keep-alive"
    return f"{method} {path} HTTP/1.1\r\nHost: {METADATA4}\r\nConnection: {connection}\r\n{headers}\r\n".encode()


def answer(s):
    """Reads one answer: (status, body). Raises OSError where the connection ends before it is whole."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = s.recv(65536)
        if not part:
            raise OSError("closed without an answer")
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        part = s.recv(65536)
        if not part:
            raise OSError("closed within an answer")
        body += part
    return int(head.split(b" ")[1]), body.decode("latin1")


def ask(s, path, method="GET", headers=""):
    s.sendall(request(method, path, headers))
    return answer(s)


def identity(s):
    """For whom the proxy takes the socket: its uid, or the status of a refusal. A naive proxy answers just the uid."""
    status, body = ask(s, WHOAMI)
    if status != 200:
        return f"status {status}"
    found = json.loads(body)
    return found if isinstance(found, int) else found["uid"]


def role(s):
    """The name of the role that the proxy gives the socket, or the status of a refusal."""
    status, body = ask(s, LIST)
    return body if status == 200 else f"status {status}"


def outcome(act):
    """What came of an attempt, in a word: what it returned, or the error's name."""
    try:
        return str(act())
    except OSError as error:
        import errno
        return errno.errorcode.get(error.errno, str(error)) if error.errno else str(error) or type(error).__name__


def tcp(family=socket.AF_INET, timeout=5):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(timeout)
    return s
