import { existsSync } from "node:fs";
import type { Platform } from "../config/platforms.ts";
import { textIfAny } from "../platform/text-file.ts";

/** Detects which of AWS's platforms this node belongs to. */

/** A platform that was found, and by what. */
export interface DetectedPlatform {
  readonly platform: Platform;
  readonly reason: string;
}

/** The paths that show each platform. They are tried before the signs of EC2, because each of these nodes is an EC2 instance too. */
const SIGNS: readonly { readonly platform: Platform; readonly path: string }[] = [
  // aws-parallelcluster-cookbook: the node's attributes, and the directory of its daemons.
  { platform: "parallelcluster", path: "/etc/parallelcluster" },
  { platform: "parallelcluster", path: "/opt/parallelcluster" },
  // SageMaker HyperPod, developer guide, "lifecycle scripts": what the cluster is made of.
  { platform: "hyperpod", path: "/opt/ml/config/resource_config.json" },
  // AWS PCS, user guide, "custom AMI": the agent, and Slurm below it.
  { platform: "pcs", path: "/opt/aws/pcs" },
];

/** EC2, user guide, "Identify EC2 instances": the vendor in DMI on Nitro, Xen's uuid before that. */
const VENDOR = "/sys/class/dmi/id/sys_vendor";
const XEN = "/sys/hypervisor/uuid";

/** The platform, as the node's files show it; `none` where they show none. */
export function detectPlatform(
  exists: (path: string) => boolean = existsSync,
  read: (path: string) => string = (path) => textIfAny(path) ?? "",
): DetectedPlatform {
  const sign = SIGNS.find(({ path }) => exists(path));
  if (sign !== undefined) return { platform: sign.platform, reason: `${sign.path} is there` };
  if (read(VENDOR).trim() === "Amazon EC2") return { platform: "ec2", reason: `${VENDOR} says Amazon EC2` };
  if (/^ec2/i.test(read(XEN))) return { platform: "ec2", reason: `${XEN} begins with ec2` };
  return { platform: "none", reason: "nothing here shows one of AWS's platforms" };
}
