/**
 * A directory that hangs: libnss_hesiod, which is part of Debian's libc6, asks DNS, and the server takes every question,
 * notes it in /run/dns.log and answers none. In Python.
 */
export const SILENT_DNS = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
log = open("/run/dns.log", "ab", 0)
while True:
    question = s.recv(4096)
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode("latin1"))
        at += 1 + question[at]
    log.write((".".join(labels) + "\\n").encode("latin1"))
`;

/** Makes the node ask it, in sh. */
export const HANGING_DIRECTORY = `
printf 'lhs=.ns\\nrhs=.example.org\\nclasses=IN\\n' >/etc/hesiod.conf
rm -f /etc/resolv.conf
printf 'nameserver 127.0.0.1\\noptions timeout:30 attempts:5\\n' >/etc/resolv.conf
printf 'passwd: files hesiod\\ngroup: files\\n' >/etc/nsswitch.conf
: >/run/dns.log
`;
