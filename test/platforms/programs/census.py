#!/usr/bin/python3
"""Asks for credentials so often, and counts what came by whose it was.

usage: census.py TIMES ROLE [ADDRESS]. ROLE is the caller's own; ADDRESS the metadata service's, default 169.254.169.254.
A try is: a token, the list of roles, the credentials of what the list names, and the same again of the instance role by its
name; one in four without a token (IMDSv1). Prints {"asked", "own", "instance", "other", "errors": {...}}: answers with the
caller's own credentials, with the instance role's, with anybody else's, and tries that ended without an answer.
"""
import collections
import http.client
import json
import sys

times, role = int(sys.argv[1]), sys.argv[2]
address = sys.argv[3] if len(sys.argv) > 3 else "169.254.169.254"
INSTANCE = "MySageMakerClusterInstanceRole"
BASE = "/latest/meta-data/iam/security-credentials/"
host = f"[{address}]" if ":" in address else address
count, errors = collections.Counter(), collections.Counter()


def ask(connection, method, path, headers):
    connection.request(method, path, headers={"Host": host, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def whose(body):
    """What the document's secret says: each begins with SESSION/ and its role; the instance role's does not."""
    secret = json.loads(body).get("SecretAccessKey", "")
    if secret.startswith(f"SESSION/{role}/"):
        return "own"
    return "other" if secret.startswith("SESSION/") else "instance"


for i in range(times):
    count["asked"] += 1
    try:
        connection = http.client.HTTPConnection(address, 80, timeout=60)
        headers = {}
        if i % 4:
            status, token = ask(connection, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
            if status != 200:
                raise ValueError(f"token {status}")
            headers = {"X-aws-ec2-metadata-token": token}
        status, name = ask(connection, "GET", BASE, headers)
        if status != 200:
            raise ValueError(f"list {status}")
        status, body = ask(connection, "GET", BASE + name.strip(), headers)
        if status != 200:
            raise ValueError(f"credentials {status}")
        found = whose(body)
        count[found if name.strip() == role or found != "own" else "other"] += 1
        if role != INSTANCE:
            status, body = ask(connection, "GET", BASE + INSTANCE, headers)
            if status == 200:
                count["instance"] += 1
        connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        errors[f"{type(error).__name__}: {error}"] += 1
print(json.dumps({"asked": count["asked"], "own": count["own"], "instance": count["instance"], "other": count["other"],
                  "errors": dict(errors)}))
