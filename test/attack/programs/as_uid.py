#!/usr/bin/python3
"""Asks the metadata service as a uid, and asks NSS nothing: sudo, setpriv and curl hang with a directory that hangs.

usage: as_uid.py UID PATH
Prints one line of JSON: status, headers, body.
"""
import http.client
import json
import os
import sys

uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
connection = http.client.HTTPConnection("169.254.169.254", 80, timeout=60)
connection.request("GET", path)
answer = connection.getresponse()
headers = {name.lower(): value for name, value in answer.getheaders()}
print(json.dumps({"status": answer.status, "headers": headers, "body": answer.read().decode()}))
