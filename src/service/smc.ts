import { readFileSync } from "node:fs";

/**
 * The socket family AF_SMC (shared memory communications over RDMA). What the kernel accepts below a listener of this family has root's uid
 * (net/smc/af_smc.c, smc_tcp_listen_work), so that a user could have sockets which the routing rules by uid and the proxy take for root's.
 * Any user can have the kernel load its module. So modprobe(8) is told to load it for nobody.
 */

/** The text of the file for modprobe.d(5). `blacklist` is for its aliases, `install` for its name. */
export const MODPROBE_TEXT = `# imdsproxy: with sockets of the family AF_SMC a user can have sockets that are root's, and so the instance role.
blacklist smc
blacklist smc_diag
install smc /bin/false
install smc_diag /bin/false
`;

/** Whether the kernel has the family now, as a module or built in. @param protocols default: /proc/net/protocols. */
export function hasSmc(protocols: () => string = () => readFileSync("/proc/net/protocols", "utf8")): boolean {
  try {
    return /^SMC6? /m.test(protocols());
  } catch {
    return false;
  }
}

/** What an operator should know; empty where the kernel has no such sockets. */
export const smcWarnings = (has: boolean = hasSmc()): readonly string[] =>
  has
    ? [
        "the kernel has sockets of the family AF_SMC, by which a user can have sockets that are root's, and so the instance role where the " +
          "iptables rules are flushed: end what uses them, and modprobe --remove smc_diag smc; where that is built in, take another kernel",
      ]
    : [];
