"""Flushes the node's firewall over and over, as others do, without a new process for each time.

usage: flusher.py KIND COUNT PAUSE_MS, the pauses between them being that long on the average
The tools read their commands from a pipe, and each command is one transaction of the kernel's, as if it were a call of its own. What a
flush takes of the agent's entry is put back at once: that is the worst case. Prints {"done": n, "failed": n}: failed are those that
the tool refused, most often because somebody else changed the rules at the same moment.
"""
import json
import os
import subprocess
import sys
import time

kind, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000
ENTRY = "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081"
failed = 0


class Tool:
    """A program that is fed line by line, and started again where it has given up."""

    def __init__(self, *argv):
        self.argv = argv
        self.program = None

    def say(self, text):
        global failed
        for attempt in range(3):
            if self.program is None or self.program.poll() is not None:
                if self.program is not None:
                    failed += 1
                self.program = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self.program.stdin.write(text.encode())
                self.program.stdin.flush()
                return
            except BrokenPipeError:
                self.program.wait()

    def end(self):
        if self.program is not None:
            self.program.stdin.close()
            self.program.wait()


four, six = Tool("/usr/sbin/iptables-nft-restore", "-n"), Tool("/usr/sbin/ip6tables-nft-restore", "-n")
whole4, whole6 = Tool("/usr/sbin/iptables-nft-restore"), Tool("/usr/sbin/ip6tables-nft-restore")
nft = Tool("/usr/sbin/nft", "-i")
rules4, rules6 = Tool("/usr/sbin/ip", "-force", "-batch", "-"), Tool("/usr/sbin/ip", "-6", "-force", "-batch", "-")


def table(name, *lines):
    return "\n".join([f"*{name}", *lines, "COMMIT", ""])


def entry():
    four.say(table("nat", f"-A OUTPUT {ENTRY}"))


def filter_flush():
    four.say(table("filter", "-F"))


def nat_flush():
    four.say(table("nat", "-F"))
    entry()


def everything():
    for name in ("filter", "nat", "mangle", "raw"):
        for tool in (four, six):
            tool.say(table(name, "-F", "-X"))
    entry()


def older_file():
    for tool, path in ((whole4, "/run/before.rules"), (whole6, "/run/before6.rules")):
        tool.say("".join(line for line in open(path) if not line.startswith("#")))


def nft_flush():
    nft.say("flush ruleset\n")
    entry()


def nft_file():
    nft.say('include "/run/nftables.conf"\n')
    entry()


def firewalld():
    nft.say("flush ruleset\n")
    nft.say("add table inet firewalld; add chain inet firewalld filter_OUTPUT { type filter hook output priority 10; policy accept; }\n")
    entry()


def ufw():
    four.say(table("filter", "-F", "-X", ":OUTPUT ACCEPT"))
    four.say(table("filter", ":ufw-before-output - [0:0]", "-A OUTPUT -j ufw-before-output"))


def docker():
    four.say(table("nat", "-F OUTPUT"))
    four.say(table("nat", ":DOCKER - [0:0]", "-I OUTPUT 1 ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER"))
    four.say(table("filter", "-F FORWARD", "-F OUTPUT"))
    entry()


def alternatives():
    def use(backend):
        for program in ("iptables", "ip6tables"):
            for suffix in ("", "-save", "-restore"):
                path = f"/run/bin/{program}{suffix}"
                os.symlink(f"/usr/sbin/{program}-{backend}{suffix}", f"{path}.new")
                os.rename(f"{path}.new", path)

    use("legacy")
    nft.say("flush ruleset\n")
    entry()
    time.sleep(pause)
    use("nft")


def rules():
    filter_flush()
    nat_flush()
    for tool in (rules4, rules6):
        tool.say("rule flush\nrule add pref 32766 lookup main\nrule add pref 32767 lookup default\n")


KINDS = {
    "iptables -F": filter_flush,
    "iptables -t nat -F": nat_flush,
    "iptables -F and -X in each table": everything,
    "iptables-restore of an older file": older_file,
    "nft flush ruleset": nft_flush,
    "nft -f of a file with flush ruleset": nft_file,
    "firewalld's complete reload": firewalld,
    "ufw's reload": ufw,
    "Docker's start": docker,
    "a switch of the alternatives": alternatives,
    "ip rule flush": rules,
}
flush = KINDS[kind]
for i in range(count):
    flush()
    time.sleep(pause * (i % 10) / 4.5)
for tool in (four, six, whole4, whole6, nft, rules4, rules6):
    tool.end()
print(json.dumps({"done": count, "failed": failed}))
