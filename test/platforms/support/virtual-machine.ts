/**
 * A node with a kernel of its own: qemu by its own emulation (never KVM, so that it runs wherever the tests do), a Debian kernel
 * and userland, no network but its own loopback. What is written to its disk stays until `destroy`.
 *
 * Commands run in it by `agent.py`, over a virtio-serial port. An emulated processor is some 20 times slower than a real one:
 * every limit of time here is for that.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Socket } from "bun";
import { LIMIT_MS, type Machine, type Ran, type RunOptions, succeeded, until, writing } from "./machine.ts";

export const REPOSITORY = resolve(import.meta.dir, "../../..");
export const CACHE = join(REPOSITORY, ".cache/platforms");

export type Architecture = "amd64" | "arm64";

/**
 * What qemu is told of each architecture, and where its kernel writes. arm64 is a Cortex-A72: with qemu 7.2's `max` Bun ended by a segmentation
 * fault in 15 of 30 starts of `serve`, with this one in 0 of 17. Which of the newer features it is, is not known.
 */
const QEMU: Readonly<Record<Architecture, { readonly argv: readonly string[]; readonly console: string }>> = {
  amd64: { argv: ["qemu-system-x86_64", "-cpu", "max"], console: "ttyS0" },
  arm64: { argv: ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"], console: "ttyAMA0" },
};

export interface MachineOptions {
  /** The directory that `build-image.sh` made: root.img, vmlinuz and initrd. */
  readonly image: string;
  /** A disk image with the label `payload`, mounted read-only at /opt/payload. */
  readonly payload?: string;
  /** Of its processor, by Debian's name; default amd64. */
  readonly architecture?: Architecture;
  /** Default 1024. */
  readonly memoryMiB?: number;
  /** More words for the kernel's command line, as `systemd.unified_cgroup_hierarchy=0`. */
  readonly kernelArguments?: readonly string[];
  /** More arguments of qemu. */
  readonly qemu?: readonly string[];
}

/** How much others go before it: IMDSPROXY_VM_NICE, default 10. */
const NICE = process.env["IMDSPROXY_VM_NICE"] ?? "10";

/** The image of a suite, built where it is not there yet (about two minutes on an idle machine). A container's has no kernel. */
export function buildImage(
  suite: string,
  packages: readonly string[] = [],
  architecture: Architecture = "amd64",
  kind: "vm" | "container" = "vm",
): string {
  const script =
    architecture === "amd64" ? ["build-image.sh", CACHE, kind] : [`build-image-${architecture}.sh`, CACHE];
  const run = Bun.spawnSync(["sh", ...script, suite, ...packages], { cwd: import.meta.dir, stderr: "pipe" });
  if (run.exitCode !== 0) throw new Error(run.stderr.toString());
  return run.stdout.toString().trim();
}

export class VirtualMachine implements Machine {
  readonly directory = mkdtempSync(join(tmpdir(), "imdsproxy-vm-"));
  readonly #options: MachineOptions;
  #qemu: Bun.Subprocess | undefined;
  #socket: Socket | undefined;
  #received = "";
  readonly #waiting = new Map<number, (ran: Ran) => void>();
  #commands = 0;
  /** How often the agent has said that it runs, and who waits for the next time. */
  #hellos = 0;
  #onHello: (() => void)[] = [];

  constructor(options: MachineOptions) {
    this.#options = options;
    const disk = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"];
    const made = Bun.spawnSync([...disk, "-b", join(options.image, "root.img"), this.#disk], {
      stderr: "pipe",
    });
    if (made.exitCode !== 0) throw new Error(`qemu-img: ${made.stderr.toString()}`);
  }

  get #disk(): string {
    return join(this.directory, "disk.qcow2");
  }

  get #qmp(): string {
    return join(this.directory, "qmp");
  }

  /** Switches it on and waits for the agent. systemd may still be starting units then: see {@link booted}. */
  async boot(): Promise<void> {
    if (this.#qemu !== undefined) throw new Error("the machine is on already");
    const { image, payload, architecture = "amd64", memoryMiB = 1024 } = this.#options;
    const { kernelArguments = [], qemu = [] } = this.#options;
    const { argv, console } = QEMU[architecture];
    const port = join(this.directory, "port");
    rmSync(port, { force: true });
    const drive = (file: string, format: string, more: string) =>
      ["-drive", `file=${file},format=${format},if=virtio,${more}`] as const;
    this.#qemu = Bun.spawn(
      [
        // It must not outlive the run that made it.
        ...["setpriv", "--pdeathsig", "KILL", "nice", "-n", NICE, ...argv],
        ...["-accel", "tcg,tb-size=512", "-smp", "1", "-m", String(memoryMiB)],
        // The machine's own time passes by instructions (two nanoseconds each): however busy the host is, nothing in it takes
        // longer by its own clock, so that no limit of time of systemd's, STS's or the proxy's is met because of the emulation.
        // The real-time clock is the host's: it goes on while the machine sleeps.
        ...[
          "-icount",
          "shift=1,sleep=on",
          "-rtc",
          "clock=host",
          "-qmp",
          `unix:${this.#qmp},server=on,wait=off`,
        ],
        ...["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"],
        ...["-kernel", join(image, "vmlinuz"), "-initrd", join(image, "initrd")],
        ...[
          "-append",
          [
            `root=/dev/vda rw console=${console}`,
            "loglevel=7 mitigations=off audit=0 noautogroup cryptomgr.notests systemd.show_status=0",
            ...kernelArguments,
          ].join(" "),
        ],
        ...drive(this.#disk, "qcow2", "cache=unsafe"),
        ...(payload === undefined ? [] : drive(payload, "raw", "readonly=on")),
        ...["-device", "virtio-rng-pci", "-serial", `file:${join(this.directory, "console")}`],
        ...["-chardev", `socket,id=tests,path=${port},server=on,wait=off`, "-device", "virtio-serial-pci"],
        ...["-device", "virtserialport,chardev=tests,name=tests", ...qemu],
      ],
      { stdin: "ignore", stdout: "ignore", stderr: Bun.file(join(this.directory, "qemu.err")) },
    );
    const before = this.#hellos;
    await until("qemu listens", () => this.#alive() && existsSync(port), 30_000);
    this.#socket = await Bun.connect({
      unix: port,
      socket: { data: (_, data) => this.#hear(data.toString("utf8")), close: () => {}, error: () => {} },
    });
    await this.#hello(before);
  }

  #alive(): true {
    if (this.#qemu?.exitCode === null) return true;
    throw new Error(`qemu ended with ${this.#qemu?.exitCode}: ${this.#read("qemu.err")}`);
  }

  async #hello(before: number): Promise<void> {
    if (this.#hellos > before) return;
    const heard = new Promise<void>((done) => this.#onHello.push(done));
    const late = Bun.sleep(LIMIT_MS).then(() => {
      throw new Error(`no word from the agent in ${LIMIT_MS / 1000} s: ${this.console().slice(-3000)}`);
    });
    await Promise.race([heard, late]);
  }

  #hear(text: string): void {
    const lines = (this.#received + text).split("\n");
    this.#received = lines.pop() ?? "";
    for (const line of lines) {
      let said: { boot?: string; id?: number } & Partial<Ran>;
      try {
        said = JSON.parse(line);
      } catch {
        // The rest of a line that the agent was writing when the machine was reset.
        said = JSON.parse(line.slice(line.lastIndexOf('{"boot"')));
      }
      if (said.boot !== undefined) {
        this.#hellos++;
        for (const done of this.#onHello.splice(0)) done();
        // What the last boot's commands would have said is never said.
        for (const done of this.#waiting.values())
          done({ code: -1, stdout: "", stderr: "the machine was restarted" });
        this.#waiting.clear();
      } else if (said.id !== undefined) {
        const { code = -1, stdout = "", stderr = "" } = said;
        this.#waiting.get(said.id)?.({ code, stdout, stderr });
        this.#waiting.delete(said.id);
      }
    }
  }

  /** Runs a line of sh in the machine, as root or as somebody else. */
  async run(script: string, options: RunOptions = {}): Promise<Ran> {
    this.#alive();
    const id = this.#commands++;
    // setpriv(1) rather than runuser: no PAM, no session, no name service but for the one look-up.
    const as =
      options.as === undefined
        ? []
        : ["setpriv", `--reuid=${options.as}`, `--regid=${options.as}`, "--init-groups"];
    const argv = [...as, "sh", "-c", script];
    const done = new Promise<Ran>((answer) => this.#waiting.set(id, answer));
    const data = Buffer.from(`${JSON.stringify({ id, argv, stdin: options.stdin ?? "" })}\n`);
    await this.#send(data);
    const limit = options.limitMs ?? LIMIT_MS;
    const timer = Promise.withResolvers<never>();
    const timeout = setTimeout(() => {
      timer.reject(new Error(`not done after ${limit / 1000} s: ${script.slice(0, 300)}`));
    }, limit);
    try {
      return await Promise.race([done, timer.promise]);
    } finally {
      clearTimeout(timeout);
    }
  }

  async #send(data: Buffer): Promise<void> {
    let sent = 0;
    while (sent < data.length) {
      const wrote = this.#socket?.write(data.subarray(sent)) ?? -1;
      if (wrote < 0) throw new Error("the machine is off");
      sent += wrote;
      if (sent < data.length) await Bun.sleep(20);
    }
  }

  /** Runs it, and fails where it fails. */
  async ok(script: string, options: RunOptions = {}): Promise<string> {
    return succeeded(script, await this.run(script, options));
  }

  /** Writes a file on the machine, which is on. */
  async write(path: string, text: string, mode = 0o644): Promise<void> {
    await this.ok(writing(path, mode), { stdin: text });
  }

  /** Waits until systemd has started everything; says in which state it is then. */
  async booted(): Promise<string> {
    let state = "";
    await until(
      "systemd has started everything",
      async () => {
        state = (await this.run("systemctl is-system-running")).stdout.trim();
        return state === "running" || state === "degraded";
      },
      LIMIT_MS,
      1000,
    );
    return state;
  }

  /** A reboot as an administrator does it; returns when the new boot's agent runs. */
  async reboot(): Promise<void> {
    const before = this.#hellos;
    // The answer may be lost with the machine.
    void this.run("systemctl reboot").catch(() => {});
    await this.#hello(before);
  }

  /**
   * Suspends it to memory (ACPI's S3) and wakes it after so many seconds of the host's. qemu must wake it: with `-icount` no timer of a
   * machine that sleeps expires, so that no alarm of its own does.
   */
  async suspend(seconds: number): Promise<void> {
    let events = "";
    const heard = (event: string) =>
      until(`qemu says ${event}`, () => this.#alive() && events.includes(`"${event}"`), LIMIT_MS, 50);
    const qmp = await Bun.connect({
      unix: this.#qmp,
      socket: {
        data: (_, data) => {
          events += data.toString("utf8");
        },
      },
    });
    try {
      qmp.write('{"execute":"qmp_capabilities"}\n');
      const slept = this.ok("echo mem >/sys/power/state");
      await Promise.race([heard("SUSPEND"), slept.then(() => heard("SUSPEND"))]);
      await Bun.sleep(seconds * 1_000);
      qmp.write('{"execute":"system_wakeup"}\n');
      await heard("WAKEUP");
      await slept;
    } finally {
      qmp.end();
    }
  }

  /** The power fails, and comes back. */
  async reset(): Promise<void> {
    await this.off();
    await this.boot();
  }

  /** The power fails. */
  async off(): Promise<void> {
    this.#qemu?.kill("SIGKILL");
    await this.#qemu?.exited;
    this.#qemu = undefined;
    this.#socket?.end();
    this.#socket = undefined;
    this.#received = "";
    for (const done of this.#waiting.values()) done({ code: -1, stdout: "", stderr: "the power failed" });
    this.#waiting.clear();
  }

  #read(name: string): string {
    const path = join(this.directory, name);
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }

  /** What the kernel and systemd wrote on the console. */
  console(): string {
    return this.#read("console");
  }

  async destroy(): Promise<void> {
    await this.off();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
