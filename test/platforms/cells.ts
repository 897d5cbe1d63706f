/**
 * The cells: what a node is made of. Each is one suite of Debian. Nothing else names a version; what a cell really had stands in
 * its results.
 */
import type { Architecture } from "./support/virtual-machine.ts";

export interface Cell {
  readonly name: string;
  /**
   * What it runs on. `machine`: a virtual machine with the suite's own kernel and systemd. `kernel`: the same without systemd, for what the kernel
   * does. `container`: the suite's userland with its systemd, on the kernel of the machine that runs the tests. An emulated
   * machine is some fifty times slower than a container.
   */
  readonly kind: "machine" | "kernel" | "container";
  /** Debian's suite. */
  readonly suite: string;
  /** Of its processor, by Debian's name; default amd64. Not of a container. */
  readonly architecture?: Architecture;
  /** What it stands for, as Debian's release notes have it; the run records what it found. */
  readonly about: string;
  /** `ec2`: EC2's own metadata service, beyond an interface, on a container that systemd takes for an instance. Default `hyperpod`. */
  readonly node?: "hyperpod" | "ec2";
  /** More packages. */
  readonly packages?: readonly string[];
  readonly kernelArguments?: readonly string[];
  readonly memoryMiB?: number;
  /** Of a container; v1 has v2 beside it (hybrid). Default v2. */
  readonly cgroups?: "v2" | "v1";
  /** The scenarios that it is for; default those of its kind. */
  readonly scenarios?: readonly string[];
}

const SUITES = [
  { suite: "bullseye", debian: "Debian 11", kernel: "5.10", systemd: "247", iptables: "1.8.7" },
  { suite: "bookworm", debian: "Debian 12", kernel: "6.1", systemd: "252", iptables: "1.8.9" },
  { suite: "trixie", debian: "Debian 13", kernel: "6.12", systemd: "257", iptables: "1.8.11" },
  { suite: "forky", debian: "Debian forky", kernel: "7.2", systemd: "262", iptables: "1.8.13" },
] as const;

const SLURM = ["slurmd", "slurmctld", "slurm-client", "munge", "libpam-slurm-adopt"];

const SLURMS = [
  { suite: "bookworm", version: "22.05", more: [] },
  { suite: "trixie", version: "24.11", more: [] },
  // Its openssh-server does without openssh-client.
  { suite: "forky", version: "26.05", more: ["openssh-client"] },
] as const;

/**
 * What systemd's hardware database says of an instance of EC2 (hwdb.d/40-imds.hwdb of systemd 262). In a container, which has no hardware
 * of its own, the kernel's command line says it (systemd-imdsd@.service(8)).
 */
const EC2 = [
  "systemd.imds=1",
  "systemd.imds.vendor=amazon-ec2",
  "systemd.imds.token_url=http://169.254.169.254/latest/api/token",
  "systemd.imds.refresh_header_name=X-aws-ec2-metadata-token-ttl-seconds",
  "systemd.imds.data_url=http://169.254.169.254/latest",
  "systemd.imds.token_header_name=X-aws-ec2-metadata-token",
  "systemd.imds.address_ipv4=169.254.169.254",
  "systemd.imds.address_ipv6=fd00:ec2::254",
  "systemd.imds.key.hostname=/meta-data/hostname",
  "systemd.imds.key.userdata=/user-data",
];

export const CELLS: readonly Cell[] = [
  ...SUITES.map(
    ({ suite, debian, systemd, iptables }): Cell => ({
      name: `userland-${suite}`,
      kind: "container",
      suite,
      about: `${debian}: systemd ${systemd}, iptables ${iptables}`,
    }),
  ),
  {
    name: "userland-hybrid",
    kind: "container",
    suite: "bookworm",
    cgroups: "v1",
    about: "Debian 12 with cgroup v1 beside v2",
    scenarios: ["install", "main job", "kill -9, restart, reload", "disable and uninstall"],
  },
  ...SLURMS.map(
    ({ suite, version, more }): Cell => ({
      name: `userland-slurm-${suite}`,
      kind: "container",
      suite,
      about: `Slurm ${version} as Debian ${suite} has it`,
      packages: [...SLURM, ...more],
      scenarios: ["slurm"],
    }),
  ),
  ...(["unlocked", "locked"] as const).map(
    (mode): Cell => ({
      name: `userland-imds-${mode}`,
      kind: "container",
      suite: "forky",
      node: "ec2",
      about: `Debian forky: systemd 262's own systemd-imdsd, with systemd.imds.network=${mode}`,
      packages: ["systemd-imds"],
      kernelArguments: [...EC2, `systemd.imds.network=${mode}`],
      scenarios: ["systemd-imdsd"],
    }),
  ),
  ...SUITES.map(
    ({ suite, debian, kernel, iptables }): Cell => ({
      name: `kernel-${suite}`,
      kind: "kernel",
      suite,
      about: `${debian}: kernel ${kernel}, iptables ${iptables}`,
      scenarios: ["kernel", "suspend", "modules that are absent"],
    }),
  ),
  ...SUITES.map(
    ({ suite, debian, kernel, systemd, iptables }): Cell => ({
      name: suite,
      kind: "machine",
      suite,
      about: `${debian}: kernel ${kernel}, systemd ${systemd}, iptables ${iptables}`,
    }),
  ),
  {
    name: "kernel-full-table",
    kind: "kernel",
    suite: "bookworm",
    about: "Debian 12's kernel, whose table of tracked connections a user fills",
    scenarios: ["a full table of tracked connections"],
  },
  {
    name: "kernel-arm64",
    kind: "kernel",
    suite: "bookworm",
    architecture: "arm64",
    about: "Debian 12 on arm64: kernel 6.1, iptables 1.8.9",
  },
  {
    name: "arm64",
    kind: "machine",
    suite: "bookworm",
    architecture: "arm64",
    about: "Debian 12 on arm64: kernel 6.1, systemd 252, iptables 1.8.9",
    scenarios: ["install", "main job", "boot", "disable and uninstall"],
  },
  {
    name: "slurm",
    kind: "machine",
    suite: "bookworm",
    about: "Debian 12 with Slurm 22.05.8",
    packages: SLURM,
    scenarios: ["slurm"],
  },
];

/** The cell of a name. */
export function cellOf(name: string): Cell {
  const cell = CELLS.find((one) => one.name === name);
  if (cell === undefined)
    throw new Error(`there is no cell ${name}: ${CELLS.map((one) => one.name).join(", ")}`);
  return cell;
}
