import { existsSync } from "node:fs";

/** Login programs that conflict with a firewall that only root may pass. */

/**
 * The paths at which the package ec2-instance-connect installs the program that sshd runs: on Ubuntu and Debian, then on Amazon
 * Linux. The program needs the metadata service, which only root reaches in the closed state.
 */
const INSTANCE_CONNECT = [
  "/usr/share/ec2-instance-connect/eic_run_authorized_keys",
  "/opt/aws/bin/eic_run_authorized_keys",
];

/**
 * The paths of Dropbear's server. Up to version 2022.83 at least, it keeps running as root after a user has logged in, so the
 * connections that it forwards for the user (`ssh -L`, `-D`, `-W`) are root's. OpenSSH's server makes them as the user. Both tried.
 */
const DROPBEAR = ["/usr/sbin/dropbear", "/usr/local/sbin/dropbear", "/usr/bin/dropbear"];

/** One sentence for each that is on this node. */
export function loginWarnings(exists: (path: string) => boolean = existsSync): readonly string[] {
  const warnings: string[] = [];
  const instanceConnect = INSTANCE_CONNECT.find(exists);
  if (instanceConnect !== undefined) {
    warnings.push(
      `EC2 Instance Connect is installed (${instanceConnect}): it asks the metadata service as its own account, ec2-instance-connect, so nobody ` +
        "can log in with it after a boot at which the firewall rules could not be applied; keep another way in, such as SSM or a key in authorized_keys",
    );
  }
  const dropbear = DROPBEAR.find(exists);
  if (dropbear !== undefined) {
    warnings.push(
      `Dropbear is installed (${dropbear}): where users log in by it, it forwards connections for them as root (ssh -L, -D, -W), and root keeps ` +
        "the instance role; start it with -j, which forbids that, or let users log in by OpenSSH",
    );
  }
  return warnings;
}
