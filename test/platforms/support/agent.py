#!/usr/bin/python3
"""Runs the tests' commands in a virtual machine, as root, over a virtio-serial port called "tests".

One JSON object a line each way. In: {"id", "argv", "stdin"}; out: {"id", "code", "stdout", "stderr"}, in the order in which
commands end; each command has a thread of its own. The first line of each boot is {"boot": boot_id}.
"""
import glob
import json
import os
import subprocess
import threading
import time

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def port():
    """The port's device. The driver may come later than this program."""
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(name) as file:
                if file.read().strip() == "tests":
                    device = "/dev/" + name.split("/")[-2]
                    if os.path.exists(device):
                        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.05)


def say(value):
    data = (json.dumps(value) + "\n").encode()
    with lock:
        while data:
            data = data[os.write(fd, data):]


def run(command):
    try:
        ran = subprocess.run(
            command["argv"], input=command.get("stdin", "").encode(), capture_output=True, env=ENVIRONMENT, cwd="/",
            start_new_session=True)
        code, out, err = ran.returncode, ran.stdout, ran.stderr
    except OSError as error:
        code, out, err = 127, b"", str(error).encode()
    say({"id": command["id"], "code": code, "stdout": out.decode("utf-8", "replace"), "stderr": err.decode("utf-8", "replace")})


fd = port()
lock = threading.Lock()
with open("/proc/sys/kernel/random/boot_id") as file:
    say({"boot": file.read().strip()})
buffered = b""
while True:
    got = os.read(fd, 65536)
    if not got:
        # Nobody is at the other end.
        time.sleep(0.1)
        continue
    buffered += got
    *lines, buffered = buffered.split(b"\n")
    for line in lines:
        threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
