"""Asks for the instance role in every way that a user has, until somebody says stop.

thief.py ROLE STOP REPORT [WHAT...]
  ROLE is the instance role's name, STOP a file whose being there ends it, REPORT a file that gets a `.` whenever each way
  has been tried once more, and an `L` for each answer with the instance role. Prints {"asked": n, "leaks": n, "outcomes": {...}, "ways": {way: leaks}}.
WHAT: `users` (all ways of a user of the node, the default) or `plain` (one way alone, for a container or for root).

Each way has a thread: what hangs in one does not hold up the others. Connections wait for 0.3 s, and one in eight for 2.5 s,
so that some are sent again (a SYN is, after 1 s) while others change the rules.
"""
import collections
import json
import os
import socket
import sys
import threading

role, stop, report = sys.argv[1:4]
what = sys.argv[4] if len(sys.argv) > 4 else "users"
METADATA4, METADATA6 = ("169.254.169.254", 80), ("fd00:ec2::254", 80)
AGENT = ("169.254.0.2", 9081)
PUT = b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: thief\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n"
GET = "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: thief\r\nConnection: close\r\nX-aws-ec2-metadata-token: %s\r\n\r\n"
SO_BINDTODEVICE, MPTCP, FASTOPEN = 25, 262, 0x20000000

lock = threading.Lock()
outcomes, leaks = collections.Counter(), collections.Counter()


def say(what):
    with open(report, "ab") as file:
        file.write(what)


def addresses():
    found = [a for a in os.environ.get("ADDRESSES", "").split(",") if a]
    return found or ["127.0.0.1"]


def ways():
    yield "plain", METADATA4, {}
    if what == "plain":
        return
    yield "mapped", ("::ffff:169.254.169.254", 80), {}
    yield "agent", AGENT, {}
    yield "ipv6", METADATA6, {}
    for target, name in ((METADATA4, "metadata"), (AGENT, "agent"), (METADATA6, "ipv6")):
        for device in sorted(os.listdir("/sys/class/net")) if os.environ.get("DEVICES") is None else os.environ["DEVICES"].split(","):
            yield f"{name} by {device}", target, {"device": device}
            if target is not METADATA6:
                for source in ("127.0.0.1", "10.77.0.2", "169.254.0.2"):
                    yield f"{name} by {device} from {source}", target, {"device": device, "source": source}
    for source in ("127.0.0.1", "10.77.0.2", "169.254.0.2", "127.169.254.1"):
        yield f"metadata from {source}", METADATA4, {"source": source}
        yield f"agent from {source}", AGENT, {"source": source}
    for target, name in ((METADATA4, "metadata"), (AGENT, "agent")):
        yield f"{name} mptcp", target, {"protocol": MPTCP}
        yield f"{name} fast open", target, {"fastopen": True}
        yield f"{name} smc", target, {"smc": True}
    for address in addresses():
        yield f"agent at {address}", (address, 9081), {}


def connect(target, how, wait):
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    if how.get("smc"):
        s = socket.socket(43, socket.SOCK_STREAM, 0)
    else:
        s = socket.socket(family, socket.SOCK_STREAM, how.get("protocol", 0))
    try:
        s.settimeout(wait)
        if "device" in how:
            s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, how["device"].encode())
        if "source" in how:
            s.bind((how["source"], 0))
        if how.get("fastopen"):
            s.settimeout(None)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, (int(wait)).to_bytes(8, "little") + (int(wait % 1 * 1e6)).to_bytes(8, "little"))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, (3).to_bytes(8, "little") + (0).to_bytes(8, "little"))
            s.sendto(PUT, FASTOPEN, target)
        else:
            s.connect(target)
            s.settimeout(3)
            s.sendall(PUT)
        return s
    except BaseException:
        s.close()
        raise


def read(s):
    got = b""
    while True:
        part = s.recv(65536)
        if not part:
            return got
        got += part
        head, end, body = got.partition(b"\r\n\r\n")
        length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if end and length and len(body) >= length[0]:
            return got


def one(name, target, how, wait):
    try:
        with connect(target, how, wait) as s:
            token = read(s).partition(b"\r\n\r\n")[2].decode("latin1")
            s.sendall((GET % token).encode("latin1"))
            got = read(s).decode("latin1")
        result = "LEAK" if role in got else "own" if "ImdsProxyTestRole" in got else got.split("\r\n")[0] or "nothing"
    except socket.timeout:
        result = "ETIMEDOUT"
    except OSError as error:
        result = os.strerror(error.errno) if error.errno else str(error)
    with lock:
        outcomes[result] += 1
        if result == "LEAK":
            leaks[name] += 1
            say(b"L")


every = list(ways())
tries = {name: 0 for name, _, _ in every}
rounds = 0


def run(name, target, how):
    global rounds
    while not os.path.exists(stop):
        one(name, target, how, 2.5 if tries[name] % 8 == 7 else 0.3)
        with lock:
            tries[name] += 1
            if min(tries.values()) > rounds:
                rounds += 1
                say(b".")


threads = [threading.Thread(target=run, args=way, daemon=True) for way in every]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"asked": sum(outcomes.values()), "leaks": sum(leaks.values()), "outcomes": dict(outcomes), "ways": dict(leaks)}))
