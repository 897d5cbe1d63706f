import { existsSync } from "node:fs";

/** Login programs that conflict with a firewall that only root may pass. */

/**
 * Where the package ec2-instance-connect has the program that sshd runs: Ubuntu and Debian, then Amazon Linux. It needs the
 * metadata service, which the closed state keeps from all but root.
 */
const INSTANCE_CONNECT = [
  "/usr/share/ec2-instance-connect/eic_run_authorized_keys",
  "/opt/aws/bin/eic_run_authorized_keys",
];

/**
 * Where Dropbear's server is. Up to 2022.83 at least it serves a user who has logged in as root, and so the connections that
 * it forwards for them (`ssh -L`, `-D`, `-W`) are root's; OpenSSH's server makes them as the user. Both tried.
 */
const DROPBEAR = ["/usr/sbin/dropbear", "/usr/local/sbin/dropbear", "/usr/bin/dropbear"];

/** One sentence for each that is on this node. */
export function loginWarnings(exists: (path: string) => boolean = existsSync): readonly string[] {
  const warnings: string[] = [];
  const instanceConnect = INSTANCE_CONNECT.find(exists);
  if (instanceConnect !== undefined) {
    warnings.push(
      `EC2 Instance Connect is installed (${instanceConnect}): it asks the metadata service as its own account, ec2-instance-connect, so nobody ` +
        "gets in by it after a boot that could not bring the firewall rules; keep another way in, such as SSM or a key in authorized_keys",
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
