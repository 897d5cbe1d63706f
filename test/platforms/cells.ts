/**
 * The cells: what a node is made of. Each is one Debian suite with its own kernel, in a virtual machine. Nothing else names
 * a version; what a cell really had stands in its results.
 */
export interface Cell {
  readonly name: string;
  /** Debian's suite. */
  readonly suite: string;
  /** What it stands for, as Debian's release notes have it; the run records what it found. */
  readonly about: string;
  /** More packages. */
  readonly packages?: readonly string[];
  readonly kernelArguments?: readonly string[];
  readonly memoryMiB?: number;
  /** The scenarios that it is for; default those of every node. */
  readonly scenarios?: readonly string[];
}

export const CELLS: readonly Cell[] = [
  { name: "bullseye", suite: "bullseye", about: "Debian 11: kernel 5.10, systemd 247, iptables 1.8.7" },
  { name: "bookworm", suite: "bookworm", about: "Debian 12: kernel 6.1, systemd 252, iptables 1.8.9" },
  { name: "trixie", suite: "trixie", about: "Debian 13: kernel 6.12, systemd 257, iptables 1.8.11" },
  { name: "forky", suite: "forky", about: "Debian forky: kernel 7.2, systemd 262, iptables 1.8.13" },
  {
    name: "slurm",
    suite: "bookworm",
    about: "Debian 12 with Slurm 22.05.8",
    packages: ["slurmd", "slurmctld", "slurm-client", "munge", "libpam-slurm-adopt"],
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
