import { readFileSync } from "node:fs";

/** Of this process' network namespace; IPv6 has none of its own (Documentation/networking/ip-sysctl.rst). */
const SYSCTL = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/** The fixed limit before Linux 4.11, which has no such setting. */
const FIXED = 1024;

/** The first port that a process without CAP_NET_BIND_SERVICE may bind, at this moment. */
export function firstUnprivilegedPort(path: string = SYSCTL): number {
  try {
    const value = Number(readFileSync(path, "utf8").trim());
    return Number.isInteger(value) ? value : FIXED;
  } catch {
    return FIXED;
  }
}
