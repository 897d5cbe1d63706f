"""Answers everybody who connects with a secret: a metadata service, or an agent.

    secret.py SECRET PORT ADDRESS...

An IPv6 address takes IPv6 alone; `*` is every address of both families by one socket.
"""
import socket
import sys
import threading

secret, port, addresses = sys.argv[1].encode(), int(sys.argv[2]), sys.argv[3:]


def serve(listener):
    while True:
        connection, _ = listener.accept()
        try:
            connection.settimeout(2)
            connection.recv(65536)
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(secret)
            connection.sendall(head + secret)
        except OSError:
            pass
        connection.close()


for address in addresses:
    both = address == "*"
    listener = socket.socket(socket.AF_INET6 if both or ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if both or ":" in address:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
    listener.bind(("::" if both else address, port))
    listener.listen(512)
    threading.Thread(target=serve, args=(listener,)).start()
