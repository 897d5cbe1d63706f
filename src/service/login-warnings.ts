import { existsSync } from "node:fs";

/** Ways of logging in that need the metadata service, which the closed state keeps from all but root. */

/** Where the package ec2-instance-connect has the program that sshd runs: Ubuntu and Debian, then Amazon Linux. */
const INSTANCE_CONNECT = [
  "/usr/share/ec2-instance-connect/eic_run_authorized_keys",
  "/opt/aws/bin/eic_run_authorized_keys",
];

/** One sentence for each that is on this node. */
export function loginWarnings(exists: (path: string) => boolean = existsSync): readonly string[] {
  const found = INSTANCE_CONNECT.find(exists);
  if (found === undefined) return [];
  return [
    `EC2 Instance Connect is installed (${found}): it asks the metadata service as its own account, ec2-instance-connect, so nobody ` +
      "gets in by it after a boot that could not bring the firewall rules; keep another way in, such as SSM or a key in authorized_keys",
  ];
}
