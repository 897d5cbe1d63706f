"""Asks for credentials as one uid after the other, each a session of its own: crowd_of_uids.py FIRST SECONDS PROCESSES.

Runs as root, which a user with subordinate uids is to them (newuidmap(1)): the socket belongs to the effective uid that made it.
"""
import collections
import http.client
import json
import os
import sys
import time

first, seconds, processes = (int(word) for word in sys.argv[1:])
ends = time.monotonic() + seconds
statuses: collections.Counter = collections.Counter()
without_retry_after = 0


def ask(uid: int) -> None:
    global without_retry_after
    os.seteuid(uid)
    try:
        connection = http.client.HTTPConnection("169.254.169.254", 80, timeout=20)
        connection.request("GET", "/latest/meta-data/iam/security-credentials/ImdsProxyTestRole")
        answer = connection.getresponse()
        answer.read()
        statuses[str(answer.status)] += 1
        if answer.status == 503 and answer.getheader("Retry-After") is None:
            without_retry_after += 1
        connection.close()
    except OSError as error:
        statuses[type(error).__name__] += 1
    finally:
        os.seteuid(0)


readers = []
for process in range(processes):
    reader, writer = os.pipe()
    if os.fork() == 0:
        uid = first + process
        while time.monotonic() < ends:
            ask(uid)
            uid += processes
        os.write(writer, json.dumps([statuses, without_retry_after]).encode())
        os._exit(0)
    os.close(writer)
    readers.append(reader)
for reader in readers:
    said, more = json.loads(os.read(reader, 65_536))
    statuses.update(said)
    without_retry_after += more
print(json.dumps({"statuses": statuses, "withoutRetryAfter": without_retry_after}))
