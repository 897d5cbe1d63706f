/**
 * A node with the userland of another release of Debian on this machine's kernel: systemd-nspawn boots the tree of an image that
 * build-image.sh made. It is as fast as this machine, where a virtual machine without KVM is fifty times slower.
 *
 * The images are mounted where this process runs, so it must be in a mount namespace of its own (`make test-platforms`).
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Machine as BootMachine } from "../../boot/support/machine.ts";
import { LIMIT_MS, type Machine, type Ran, type RunOptions, succeeded, until, writing } from "./machine.ts";
import { CACHE } from "./virtual-machine.ts";

export interface ContainerOptions {
  /** The directory that `build-image.sh` made. */
  readonly image: string;
  /** A directory that is shown at /opt/payload. */
  readonly payload: string;
  /** v1 has v2 beside it, as on older systems (hybrid). Default v2. */
  readonly cgroups?: "v2" | "v1";
  /** What systemd takes for the kernel's command line; default nothing. */
  readonly kernelArguments?: readonly string[];
  /** Files that are there at the first boot, by path, such as `etc/x`; units with `WantedBy=` are enabled. */
  readonly files?: Readonly<Record<string, string>>;
}

/** Where commands run, as a login over ssh has its own scope there. */
const LOGIN = "/sys/fs/cgroup/user.slice/login.scope";

/** The disk that users can fill. */
const DISK = { mib: 2_000, inodes: 12_000 };

/** Mounts an image's tree, and says where. */
function mounted(image: string): string {
  const tree = join(CACHE, "mounted");
  mkdirSync(tree, { recursive: true });
  const mount = Bun.spawnSync(["mount", "-o", "loop,ro", join(image, "root.img"), tree], { stderr: "pipe" });
  if (mount.exitCode !== 0) throw new Error(`${image}: ${mount.stderr.toString()}`);
  return tree;
}

export class Container implements Machine {
  readonly #machine: BootMachine;
  readonly #cgroups: "v2" | "v1";

  constructor({ image, payload, cgroups = "v2", kernelArguments = [], files = {} }: ContainerOptions) {
    this.#cgroups = cgroups;
    process.env["IMDSPROXY_BOOT_TREE"] = mounted(image);
    this.#machine = new BootMachine({
      ext4: DISK,
      cgroups,
      kernelArguments,
      show: { [payload]: "/opt/payload" },
    });
    // What only a virtual machine has: its disks, and the agent that runs commands.
    this.#machine.write("etc/fstab", "");
    this.#machine.link("/dev/null", "etc/systemd/system/vm-agent.service");
    this.#machine.write("etc/systemd/system/user@.service.d/stop.conf", "[Service]\nTimeoutStopSec=5s\n");
    for (const [path, text] of Object.entries(files)) {
      this.#machine.write(path, text);
      const [, unit] = /^etc\/systemd\/system\/([^/]+)$/.exec(path) ?? [];
      const target = /^WantedBy=(.*)$/m.exec(text)?.[1];
      if (unit !== undefined && target !== undefined) this.#machine.enable(unit, target);
    }
  }

  boot(): Promise<void> {
    return this.#machine.boot({ wait: false });
  }

  /**
   * The line of sh as somebody's login has it: in a cgroup of the container's own. What is run in a container from outside of it stays in
   * a cgroup that the container does not see, and to the proxy such a caller's cgroup is not known.
   */
  #inLogin(script: string, as: string | undefined): string {
    const enter = this.#cgroups === "v2" ? `mkdir -p ${LOGIN} && echo $$ >${LOGIN}/cgroup.procs; ` : "";
    const account =
      as === undefined ? "" : `HOME=/home/${as} setpriv --reuid=${as} --regid=${as} --init-groups `;
    return `${enter}exec env ${account}/bin/sh -c '${script.replaceAll("'", "'\\''")}'`;
  }

  async run(script: string, { as, stdin, limitMs = LIMIT_MS }: RunOptions = {}): Promise<Ran> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => late.reject(new Error(`not done after ${limitMs / 1000} s: ${script.slice(0, 300)}`)),
      limitMs,
    );
    try {
      const options = stdin === undefined ? {} : { input: stdin };
      return await Promise.race([this.#machine.run(this.#inLogin(script, as), options), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  async ok(script: string, options: RunOptions = {}): Promise<string> {
    return succeeded(script, await this.run(script, options));
  }

  async write(path: string, text: string, mode = 0o644): Promise<void> {
    await this.ok(writing(path, mode), { stdin: text });
  }

  async booted(): Promise<string> {
    await this.#machine.booted(LIMIT_MS);
    return (await this.run("systemctl is-system-running")).stdout.trim();
  }

  reboot(): Promise<void> {
    return this.#machine.reboot({ wait: false });
  }

  async reset(): Promise<void> {
    await this.#machine.powerCut();
    await this.boot();
  }

  console(): string {
    return this.#machine.console();
  }

  async destroy(): Promise<void> {
    await this.#machine.destroy();
    const tree = process.env["IMDSPROXY_BOOT_TREE"] ?? "";
    await until("the image is free", () => Bun.spawnSync(["umount", tree]).exitCode === 0, 60_000);
  }
}
