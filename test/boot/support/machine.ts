/**
 * A node with a real systemd: systemd-nspawn boots a Debian tree, through an overlay, in a network of its own.
 * The overlay's upper layer is the machine's disk: it stays when the machine is switched off, however hard.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dir, "../../..");
/** What `systemctl reboot` inside makes systemd-nspawn's exit status. */
const REBOOT_STATUS = 133;

/** How long one test with a machine may take: only what hangs takes as long. */
export const LIMIT_MS = 10 * 60_000;
/** The same where a machine is made: the first one waits for its tree, which is built by Debian's packages from elsewhere. */
export const FIRST_BOOT_LIMIT_MS = 15 * 60_000;

/** What a command inside the machine did. */
export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface MachineOptions {
  /** Size of the disk in MiB where it must be small; it is in memory then, and gone at the end of the boot. */
  readonly diskMiB?: number;
  /** The disk is an ext4 file system of its own, which a user can fill, in a file that stays from boot to boot. */
  readonly ext4?: { readonly mib: number; readonly inodes: number };
  /** What the node's cgroups are: v2 alone, or v1 with v2 beside it, as on older systems. Default v2. */
  readonly cgroups?: "v2" | "v1";
  /** Directories of this machine that are shown there, read-only, by where. */
  readonly show?: Readonly<Record<string, string>>;
  /** What systemd takes for the kernel's command line; default nothing. */
  readonly kernelArguments?: readonly string[];
}

const SIGRTMIN = 34;

/** How it is switched on. */
export interface BootOptions {
  /** Whether to wait for {@link Machine.booted}; default true. */
  readonly wait?: boolean;
  /** Limits what is read of the disk in this boot; for a machine with `ext4`. */
  readonly slow?: { readonly bytesPerSecond: number; readonly readsPerSecond: number };
}

/**
 * What overlayfs needs to mount a disk that is full, as a kernel that mounts its root needs nothing: freed before, and taken
 * again after.
 */
const reserve = (directory: string) =>
  `mkdir ${directory}/reserve; for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=${directory}/reserve/$i bs=16k count=1; done 2>/dev/null;`;

const BLKIO = "/sys/fs/cgroup/blkio";
/** Whether this machine can slow down a disk. */
export const canSlowDown = existsSync(`${BLKIO}/blkio.throttle.read_bps_device`);

let tree: string | undefined;

/**
 * The Debian tree that machines boot from, built where it is not there yet (about a minute). IMDSPROXY_BOOT_TREE names another,
 * as of another release of Debian.
 */
export function bootTree(): string {
  const other = process.env["IMDSPROXY_BOOT_TREE"];
  if (other !== undefined) return other;
  if (tree !== undefined) return tree;
  const script = join(import.meta.dir, "build-tree.sh");
  const run = Bun.spawnSync(["sh", script, join(REPOSITORY, ".cache")], { stderr: "pipe" });
  if (run.exitCode !== 0) throw new Error(`build-tree.sh: ${run.stderr.toString()}`);
  tree = run.stdout.toString().trim();
  return tree;
}

let count = 0;

/** One machine. Made off; `boot` switches it on. */
export class Machine {
  readonly name = `imdsproxy-boot-${process.pid}-${count++}`;
  readonly #directory: string;
  readonly #options: MachineOptions;
  #nspawn: Bun.Subprocess | undefined;
  #leader = 0;
  /** Commands that are at work inside. */
  readonly #commands = new Set<Bun.Subprocess>();

  constructor(options: MachineOptions = {}) {
    this.#options = options;
    this.#directory = mkdtempSync(join(tmpdir(), "imdsproxy-boot-"));
    for (const layer of ["upper", "work", "root"]) mkdirSync(join(this.#directory, layer));
  }

  /** Where a path of the machine's disk is on this one. Only to be written while the machine is off. */
  onDisk(path: string): string {
    return join(this.#directory, "upper", path);
  }

  /** Writes a file onto the disk while the machine is off. */
  write(path: string, text: string | Uint8Array, mode = 0o644): void {
    if (this.#nspawn !== undefined) throw new Error(`${path}: the machine is on`);
    const target = this.onDisk(path);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, text, { mode });
  }

  /** Copies a file onto the disk while the machine is off. */
  copyIn(source: string, path: string): void {
    const target = this.onDisk(path);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(source, target);
  }

  /** Makes a symbolic link on the disk while the machine is off. */
  link(target: string, path: string): void {
    mkdirSync(dirname(this.onDisk(path)), { recursive: true });
    rmSync(this.onDisk(path), { force: true });
    symlinkSync(target, this.onDisk(path));
  }

  /** Enables a unit before the first boot, as the link that systemctl would make. */
  enable(unit: string, target = "multi-user.target"): void {
    this.link(`/etc/systemd/system/${unit}`, `etc/systemd/system/${target}.wants/${unit}`);
  }

  /** Switches it on and waits until systemd says that it has started everything (`running` or `degraded`). */
  async boot(options: BootOptions = {}): Promise<void> {
    if (this.#nspawn !== undefined) throw new Error("the machine is on already");
    const { diskMiB, ext4 } = this.#options;
    const directory =
      diskMiB === undefined && ext4 === undefined ? this.#directory : join(this.#directory, "disk");
    const layers = (name: string) => join(directory, name);
    const mount =
      `${this.#ownCgroup()} ${this.#mountDisk(directory)} ${this.#slowDown(directory, options.slow)} mount -t overlay overlay ` +
      `-o lowerdir=${bootTree()},upperdir=${layers("upper")},workdir=${layers("work")} ${layers("root")} && ` +
      `${ext4 === undefined ? "" : reserve(directory)} exec "$@"`;
    // The machine must not outlive the test that made it, however that ends: setpriv's death signal survives the exec, and
    // unshare takes its child with it. That one is process 1 of a namespace with all that the machine runs; the kernel ends
    // them with it. Without the namespace, the machine's own process 1 would go on when systemd-nspawn is killed.
    this.#nspawn = Bun.spawn(
      [
        ...["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"],
        ...["--pid", "--mount-proc", "--kill-child=KILL"],
        ...["sh", "-c", mount, "sh", "systemd-nspawn", "--quiet", "--boot", "--private-network"],
        ...["--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off"],
        ...[`--machine=${this.name}`, "--hostname=node", `--directory=${layers("root")}`],
        `--bind-ro=${REPOSITORY}:/opt/imdsproxy-source`,
        ...Object.entries(this.#options.show ?? {}).map(([here, there]) => `--bind-ro=${here}:${there}`),
        // Hides the pages of this machine's journal from the node's, and lets sysctls of the network be set.
        "--link-journal=no",
        ...(this.#options.kernelArguments ?? []),
      ],
      {
        env: {
          PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
          SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: this.#options.cgroups === "v1" ? "0" : "1",
          SYSTEMD_NSPAWN_API_VFS_WRITABLE: "network",
          // As on a node: /tmp is on the disk, which users can fill.
          SYSTEMD_NSPAWN_TMPFS_TMP: ext4 === undefined ? "1" : "0",
        },
        stdin: "ignore",
        // A process group of its own: a kill of the group inside of the machine must not reach the tests.
        detached: true,
        stdout: Bun.file(join(this.#directory, "console")),
        stderr: Bun.file(join(this.#directory, "console.err")),
      },
    );
    const nspawn = this.#nspawn;
    this.#leader = 0;
    await until("systemd is the machine's first process", () => {
      if (hasEnded(nspawn)) throw new Error(`systemd-nspawn ended: ${this.console()}`);
      this.#leader = leaderOf(nspawn.pid);
      return this.#leader !== 0;
    });
    if (options.wait !== false) await this.booted();
  }

  /** Waits until systemd says that it has started everything (`running` or `degraded`). */
  async booted(limitMs?: number): Promise<void> {
    await until(
      "systemd has started everything",
      async () => {
        if (this.#nspawn === undefined || hasEnded(this.#nspawn))
          throw new Error(`systemd-nspawn ended: ${this.console()}`);
        const state = (await this.run("systemctl is-system-running")).stdout.trim();
        return state === "running" || state === "degraded";
      },
      limitMs,
    );
  }

  /** The shell commands that mount a disk of its own; what was written while the machine was off is copied onto it. */
  #mountDisk(directory: string): string {
    const { diskMiB, ext4 } = this.#options;
    const layers = ["upper", "work", "root"].map((name) => join(this.#directory, name)).join(" ");
    if (diskMiB !== undefined) {
      return `mkdir -p ${directory} && mount -t tmpfs -o size=${diskMiB}m tmpfs ${directory} && cp -a ${layers} ${directory} &&`;
    }
    if (ext4 === undefined) return "";
    const image = `${directory}.img`;
    const make =
      `truncate -s ${ext4.mib}M ${image} && mkfs.ext4 -q -m 0 -N ${ext4.inodes} ${image} && mkdir ${directory} && ` +
      `mount -o loop ${image} ${directory} && cp -a ${layers} ${directory} &&`;
    return existsSync(image) ? `mount -o loop ${image} ${directory} && rm -r ${directory}/reserve &&` : make;
  }

  /**
   * The shell commands that put the machine under a limit of what it reads of its disk. By cgroup v1's blkio controller:
   * Documentation/admin-guide/cgroup-v1/blkio-controller.rst.
   */
  #slowDown(directory: string, slow: BootOptions["slow"]): string {
    if (slow === undefined) return "";
    const limit = (file: string, value: number) =>
      `echo "$(findmnt -no MAJ:MIN ${directory}) ${value}" >${this.#throttle}/blkio.throttle.${file} &&`;
    return (
      `mkdir -p ${this.#throttle} && ${limit("read_bps_device", slow.bytesPerSecond)} ` +
      `${limit("read_iops_device", slow.readsPerSecond)} echo $$ >${this.#throttle}/cgroup.procs &&`
    );
  }

  /**
   * The shell commands that put the machine into a cgroup of its own, in the tree of v2 and in systemd's of v1: systemd-nspawn
   * makes `payload` below the cgroup that it is in, and two machines with one `payload` end each other's services.
   */
  #ownCgroup(): string {
    return inCgroupTrees(
      join(this.#directory, "cgroup"),
      (tree) => `mkdir -p ${tree}/${this.name} && echo $$ >${tree}/${this.name}/cgroup.procs`,
    );
  }

  /** The cgroup for {@link BootOptions.slow}. */
  get #throttle(): string {
    return `${BLKIO}/${this.name}`;
  }

  /** What was written on the machine's console. */
  console(): string {
    return ["console", "console.err"]
      .map((name) => join(this.#directory, name))
      .filter(existsSync)
      .map((path) => readFileSync(path, "utf8"))
      .join("");
  }

  /** Runs a shell command inside, as root or as an account of the machine. */
  async run(command: string, options: { readonly as?: string; readonly input?: string } = {}): Promise<Ran> {
    const account =
      options.as === undefined
        ? []
        : ["setpriv", `--reuid=${options.as}`, `--regid=${options.as}`, "--init-groups"];
    const child = Bun.spawn(
      [
        ...["nsenter", "--all", "--target", String(this.#leader), "--", "/usr/bin/env", "-i"],
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ...[`HOME=${options.as === undefined ? "/root" : `/home/${options.as}`}`],
        ...[...account, "/bin/sh", "-c", command],
      ],
      { detached: true, stdin: new Blob([options.input ?? ""]), stdout: "pipe", stderr: "pipe" },
    );
    this.#commands.add(child);
    const [stdout, stderr, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    this.#commands.delete(child);
    return { code, stdout, stderr };
  }

  /** Runs a command that must succeed, and returns what it printed. */
  async ok(
    command: string,
    options: { readonly as?: string; readonly input?: string } = {},
  ): Promise<string> {
    const ran = await this.run(command, options);
    if (ran.code !== 0) {
      throw new Error(`${command}: exit ${ran.code}\n${ran.stdout}${ran.stderr}`);
    }
    return ran.stdout;
  }

  /** Shuts it down in order and switches it on again. */
  async reboot(options: BootOptions = {}): Promise<void> {
    const nspawn = this.#nspawn;
    // systemd's own signal for it (systemd(1)). Not a command inside: its nsenter is stopped with everything else when the
    // machine goes down, and nobody wakes it.
    Bun.spawnSync(["kill", `-${SIGRTMIN + 5}`, String(this.#leader)]);
    const status = await nspawn?.exited;
    if (status !== REBOOT_STATUS) throw new Error(`the reboot ended with ${status}: ${this.console()}`);
    this.#nspawn = undefined;
    await this.boot(options);
  }

  /** Every process is gone at once; the disk stays as it is. */
  async powerCut(): Promise<void> {
    const nspawn = this.#nspawn;
    this.#nspawn = undefined;
    if (nspawn === undefined) return;
    // Whatever is the child of unshare, from the shell that mounts the disk to systemd-nspawn: process 1 of the machine's
    // namespace, which the kernel lets go after all the others in it.
    const [first] = hasEnded(nspawn) ? [] : childrenOf(nspawn.pid);
    if (first === undefined) nspawn.kill("SIGKILL");
    else killIfThere(first);
    // They stand outside as parents of processes inside, which cannot go before they are waited for.
    for (const command of this.#commands) command.kill("SIGKILL");
    await nspawn.exited;
    const leader = this.#leader;
    await until("the processes are gone", () => leader === 0 || !existsSync(`/proc/${leader}`));
  }

  /** Switches it off, however it is, and throws its disk away. */
  async destroy(): Promise<void> {
    await this.powerCut();
    const remove = (tree: string) => `find ${tree}/${this.name} -depth -type d -exec rmdir {} +`;
    Bun.spawnSync(["unshare", "--mount", "sh", "-c", inCgroupTrees(join(this.#directory, "cgroup"), remove)]);
    rmSync(this.#directory, { recursive: true, force: true });
    // A cgroup's directory cannot be removed with what stands in it: that is the kernel's.
    if (existsSync(this.#throttle)) rmdirSync(this.#throttle);
  }
}

/** Shell commands that do something in each tree of cgroups that systemd uses, which they mount for that. */
const inCgroupTrees = (directory: string, work: (tree: string) => string): string =>
  `mkdir -p ${directory}; for options in '-t cgroup2' '-t cgroup -o none,name=systemd'; do ` +
  `mount $options cgroup ${directory} && { ${work(directory)}; umount ${directory}; }; done 2>/dev/null;`;

const hasEnded = ({ exitCode, signalCode }: Bun.Subprocess): boolean =>
  exitCode !== null || signalCode !== null;

/** Kills a process, unless it has ended by itself meanwhile. */
function killIfThere(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/**
 * The machine's first process: process 1 in its own namespace and two namespaces below this one, once it is systemd. Before
 * that it is a part of systemd-nspawn, and what would be run beside it would see this machine's files.
 */
function leaderOf(unshare: number): number {
  for (const nspawn of childrenOf(unshare)) {
    for (const child of childrenOf(nspawn)) {
      try {
        const status = readFileSync(`/proc/${child}/status`, "utf8");
        if (/^NSpid:\t\d+\t\d+\t1$/m.test(status) && /^Name:\t(?:systemd|init)$/m.test(status)) return child;
      } catch {
        // It ended meanwhile.
      }
    }
  }
  return 0;
}

const childrenOf = (pid: number): number[] =>
  Bun.spawnSync(["pgrep", "--parent", String(pid)])
    .stdout.toString()
    .split("\n")
    .filter((line) => line !== "")
    .map(Number);

/**
 * Waits until something holds, asking every 50 ms, for four minutes at most: far longer than anything takes, on a busy machine too. With a
 * tenth of a processor, a boot takes more than two in which a service is started again and again.
 *
 * @param found what the error says besides; default nothing.
 */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  limitMs = 240_000,
  found: () => Promise<string> = async () => "",
): Promise<void> {
  const deadline = Date.now() + limitMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`after ${limitMs} ms still not so: ${what}\n${await found()}`);
    await Bun.sleep(50);
  }
}
