/**
 * The cells: what a node is made of. Each is one suite of Debian. Nothing else names a version; what a cell really had stands in
 * its results.
 */
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
  /** What it stands for, as Debian's release notes have it; the run records what it found. */
  readonly about: string;
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
  ...SUITES.map(
    ({ suite, debian, kernel, iptables }): Cell => ({
      name: `kernel-${suite}`,
      kind: "kernel",
      suite,
      about: `${debian}: kernel ${kernel}, iptables ${iptables}`,
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
    name: "kernel-no-modules",
    kind: "kernel",
    suite: "bookworm",
    about: "Debian 12's kernel without the modules for nf_conntrack, then without those for inet_diag",
    scenarios: ["modules that are absent"],
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
