"""What the tests of the firewall do as root, as alice, and from a container: `probe.py COMMAND ...`.

ask HOST PORT [TRICK]   opens one connection, asks, and prints who answered: proxy, other, or the error's name
listen ADDRESS PORT     stands in for the proxy: answers every request with `proxy`
hold HOST PORT DIR      opens a connection, makes DIR/ready-UID, waits for DIR/go, asks on it, and prints as `ask` does
hammer DIR HOST PORT... opens connections as fast as it can until DIR/stop is there; prints how many, and who answered
many HOST PORT N        N short connections one after the other; prints each outcome with its count
reset HOST PORT         connects from HOST:PORT to a closed port, and prints the error: the kernel's own RST must come through
"""
import collections
import ctypes
import errno
import os
import socket
import struct
import sys
import threading
import time

# Seconds. A connection of one machine is made at once, or a packet is dropped. An answer is another program's, which may be late.
CONNECT_S = 3
ANSWER_S = 20

REQUEST = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def name(error):
    if isinstance(error, socket.timeout):
        return "ETIMEDOUT"
    return errno.errorcode.get(error.errno, str(error))


def make(host, trick):
    if trick == "mptcp":
        return socket.socket(family(host), socket.SOCK_STREAM, 262)
    s = socket.socket(family(host), socket.SOCK_STREAM)
    if trick == "device":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    elif trick == "loopback-source":
        s.bind(("127.0.0.1", 0))
    elif trick == "node-source":
        s.bind(("10.77.0.2", 0))
    elif trick == "source-route":
        # Loose source and record route (newer kernels keep it for CAP_NET_RAW), by way of the node's own address: the packet's destination is that address.
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, struct.pack("!BBB4sB", 131, 7, 4, socket.inet_aton("10.77.0.2"), 1))
    return s


def talk(s):
    s.sendall(REQUEST)
    answer = b""
    while len(answer) < 65536:
        piece = s.recv(65536)
        if not piece:
            break
        answer += piece
    return "proxy" if answer.endswith(b"\r\n\r\nproxy") else "other" if answer else "nothing"


def ask(host, port, trick=""):
    try:
        with make(host, trick) as s:
            s.settimeout(CONNECT_S)
            if trick == "fast-open":
                # Data in the SYN (MSG_FASTOPEN); blocking, for else it only says EINPROGRESS.
                s.settimeout(None)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", CONNECT_S, 0))
                s.sendto(REQUEST, 0x20000000, (host, int(port)))
                return talk(s)
            s.connect((host, int(port)))
            s.settimeout(ANSWER_S)
            return talk(s)
    except OSError as error:
        return name(error)


def listen(address, port):
    with socket.socket(family(address), socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family(address) == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, int(port)))
        s.listen(4096)
        while True:
            c, _ = s.accept()
            threading.Thread(target=answer, args=(c,), daemon=True).start()


def answer(c):
    with c:
        try:
            c.settimeout(ANSWER_S)
            c.recv(4096)
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy")
        except OSError:
            pass


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)


def hold(host, port, directory):
    with make(host, "") as s:
        s.settimeout(ANSWER_S)
        s.connect((host, int(port)))
        open(f"{directory}/ready-{os.getuid()}", "w").close()
        wait_for(f"{directory}/go")
        try:
            return talk(s)
        except OSError as error:
            return name(error)


def hammer(directory, *targets):
    outcomes = collections.Counter()
    pairs = list(zip(targets[::2], targets[1::2]))
    while not os.path.exists(f"{directory}/stop"):
        for host, port in pairs:
            outcomes[ask(host, port)] += 1
    return " ".join(f"{what}={count}" for what, count in sorted(outcomes.items()))


def many(host, port, count):
    outcomes = collections.Counter(ask(host, port) for _ in range(int(count)))
    return " ".join(f"{what}={n}" for what, n in sorted(outcomes.items()))


def reset(host, port):
    try:
        with socket.socket(family(host), socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, int(port)))
            s.settimeout(2)
            s.connect((host, 1))
            return "connected"
    except OSError as error:
        return name(error)


if __name__ == "__main__":
    # Killed with whoever started us: PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, 9)
    outcome = globals()[sys.argv[1]](*sys.argv[2:])
    print(outcome)
