"""Asks /imdsproxy/whoami on new connections until the file STOP is there: prints how often each answer came, as JSON."""
import collections
import http.client
import json
import os
import sys
import threading

STOP = sys.argv[1]
counts = collections.Counter()
lock = threading.Lock()


def ask():
    while not os.path.exists(STOP):
        try:
            connection = http.client.HTTPConnection("169.254.169.254", 80, timeout=60)
            connection.request("GET", "/imdsproxy/whoami")
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
        except OSError as error:
            key = "error " + type(error).__name__
        else:
            if answer.status == 200:
                said = json.loads(body)
                key = " ".join(str(said[name]) for name in ("rule", "roleName", "sessionName"))
            else:
                key = "status " + str(answer.status)
        with lock:
            counts[key] += 1


threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(counts))
