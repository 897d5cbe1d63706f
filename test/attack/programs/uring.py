#!/usr/bin/python3
"""Connects without a system call of its own for it: threads of the kernel make the socket and use it (io_uring(7)).

usage: uring.py
Asks the metadata address for whom it is taken, and the agent for anything at all: by the kernel's workers (IOSQE_ASYNC), and by a
thread that polls (IORING_SETUP_SQPOLL). Prints one line of JSON: what came of each; null where the kernel has no io_uring for users.
"""
import ctypes
import json
import mmap
import os
import socket
import struct
import time

from imds import METADATA4, WHOAMI, request

SETUP, ENTER = 425, 426
SETUP_SQPOLL, ENTER_GETEVENTS, ENTER_SQ_WAKEUP = 2, 1, 2
IOSQE_ASYNC = 16
CONNECT, SEND, RECV, SOCKET = 16, 26, 27, 45
AGENT = "169.254.0.2"
libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """A ring of eight entries, of which one is used at a time. Offsets are of struct io_uring_params (linux/io_uring.h)."""

    def __init__(self, polled):
        params = bytearray(struct.pack("5I", 8, 16, SETUP_SQPOLL if polled else 0, 0, 1000).ljust(120, b"\0"))
        self.fd = libc.syscall(SETUP, 8, (ctypes.c_char * 120).from_buffer(params))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        self.flag = 0 if polled else IOSQE_ASYNC
        self.wakeup = ENTER_SQ_WAKEUP if polled else 0
        _, self.tail, _, _, _, _, array = struct.unpack_from("7I", params, 40)
        self.cq_head, self.cq_tail, self.cq_mask, entries, _, self.cqes = struct.unpack_from("6I", params, 80)
        size = max(array + 4 * 8, self.cqes + 16 * entries)
        self.ring = mmap.mmap(self.fd, size, offset=0)
        self.sqes = mmap.mmap(self.fd, 8 * 64, offset=0x10000000)
        struct.pack_into("I", self.ring, array, 0)
        self.array = array

    def word(self, at):
        return struct.unpack_from("I", self.ring, at)[0]

    def do(self, opcode, fd, off=0, addr=0, length=0):
        """One operation; its result."""
        entry = struct.pack("BBHiQQII", opcode, self.flag, 0, fd, off, addr, length, 0).ljust(64, b"\0")
        self.sqes[:64] = entry
        tail = self.word(self.tail)
        struct.pack_into("I", self.ring, self.array + 4 * (tail & 7), 0)
        struct.pack_into("I", self.ring, self.tail, tail + 1)
        until = time.monotonic() + 30
        while self.word(self.cq_head) == self.word(self.cq_tail):
            if libc.syscall(ENTER, self.fd, 1, 1, ENTER_GETEVENTS | self.wakeup, None, 0) < 0 and time.monotonic() > until:
                raise OSError(ctypes.get_errno(), "io_uring_enter")
        head = self.word(self.cq_head)
        _, result, _ = struct.unpack_from("Qii", self.ring, self.cqes + 16 * (head & self.word(self.cq_mask)))
        struct.pack_into("I", self.ring, self.cq_head, head + 1)
        return result


def asked(ring, host, port):
    fd = ring.do(SOCKET, socket.AF_INET, off=socket.SOCK_STREAM)
    if fd < 0:
        return os.strerror(-fd)
    try:
        where = ctypes.create_string_buffer(struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host)))
        failed = ring.do(CONNECT, fd, off=16, addr=ctypes.addressof(where))
        if failed < 0:
            return os.strerror(-failed)
        text = ctypes.create_string_buffer(request("GET", WHOAMI, close=True))
        ring.do(SEND, fd, addr=ctypes.addressof(text), length=len(text) - 1)
        got = b""
        while True:
            into = ctypes.create_string_buffer(65536)
            length = ring.do(RECV, fd, addr=ctypes.addressof(into), length=65536)
            if length <= 0:
                break
            got += into.raw[:length]
        head, _, body = got.partition(b"\r\n\r\n")
        return json.loads(body)["uid"] if b" 200 " in head.split(b"\r\n")[0] else head.split(b"\r\n")[0].decode()
    finally:
        os.close(fd)


found = {}
for name, polled in (("workers", False), ("polled", True)):
    try:
        ring = Ring(polled)
    except OSError as error:
        found[name] = None if error.errno in (1, 38) else str(error)
        continue
    found[name] = [asked(ring, METADATA4, 80), asked(ring, AGENT, 9081)]
print(json.dumps(found))
