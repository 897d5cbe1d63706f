#!/usr/bin/python3
"""A user keeps sockets that a job has made, and asks on them after the job's end.

usage: afterlife.py CGROUP_PROCS UID GO, run by root, which puts the job's process into its cgroup as slurmstepd does
The process in the job makes sockets and passes them to one outside of it (unix(7), SCM_RIGHTS). That one prints the session's name for
the first of them; waits until the file GO is there; and then asks on one after another, until one gets another answer than that name,
or for as long as there are any. It prints the last answer: a session's name, or "no role".
"""
import json
import os
import socket
import sys
import time

from imds import METADATA4, WHOAMI, ask

SOCKETS = 40
procs, uid, go = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def become_user():
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


outside, inside = socket.socketpair()
if os.fork() == 0:
    with open(procs, "w") as f:
        f.write(str(os.getpid()))
    become_user()
    made = [socket.socket() for _ in range(SOCKETS)]
    socket.send_fds(inside, [b"x"], [s.fileno() for s in made])
    os._exit(0)
become_user()
_, received, _, _ = socket.recv_fds(outside, 1, SOCKETS)
os.wait()
sockets = [socket.socket(fileno=fd) for fd in received]


def session():
    with sockets.pop() as s:
        s.settimeout(30)
        s.connect((METADATA4, 80))
        status, body = ask(s, WHOAMI)
        return (json.loads(body).get("sessionName") if status == 200 else f"status {status}") or "no role"


first = session()
print(first, flush=True)
while not os.path.exists(go):
    time.sleep(0.05)
last = first
while sockets and last == first:
    time.sleep(0.2)
    last = session()
print(last)
