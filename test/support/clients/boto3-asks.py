#!/usr/bin/python3
"""Asks for credentials once, by boto3, and prints what a person sees and how long it took as one line of JSON.

usage: boto3-asks.py STS-ENDPOINT
"""
import json
import sys
import time

import boto3

session = boto3.Session(region_name="us-west-2")
began = time.monotonic()
session.get_credentials()
took = time.monotonic() - began
try:
    says = session.client("sts", endpoint_url=sys.argv[1]).get_caller_identity()["Arn"]
except Exception as error:  # noqa: BLE001: whatever it is, a person sees it
    says = f"{type(error).__name__}: {error}"
print(json.dumps({"says": says, "tookMs": round(took * 1000)}))
