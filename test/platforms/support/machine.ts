/** What a scenario needs of a node, whatever it runs on: a virtual machine with a kernel of its own, or a container. */

/** What a command in the machine did. */
export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** An account of the machine; default root. */
  readonly as?: string;
  readonly stdin?: string;
  /** Milliseconds by this machine's clock after which the command is taken to hang. */
  readonly limitMs?: number;
}

export interface Machine {
  /** Runs a line of sh in the machine, as root or as somebody else. */
  run(script: string, options?: RunOptions): Promise<Ran>;
  /** Runs it, and fails where it fails. */
  ok(script: string, options?: RunOptions): Promise<string>;
  /** Writes a file on the machine, which is on. */
  write(path: string, text: string, mode?: number): Promise<void>;
  /** Waits until systemd has started everything; says in which state it is then. */
  booted(): Promise<string>;
  /** A reboot as an administrator does it; returns when commands can be run again, while systemd still starts units. */
  reboot(): Promise<void>;
  /** The power fails, and comes back. */
  reset(): Promise<void>;
  /** Sleeps for so many seconds, as a lid that is closed; where the machine is one that can. */
  suspend?(seconds: number): Promise<void>;
  /** What was written on the console. */
  console(): string;
  destroy(): Promise<void>;
}

/** Far longer than anything takes, also where a busy host gives an emulated machine a tenth of a processor. */
export const LIMIT_MS = 3_600_000;

/** The shell line that writes its input to a file. */
export const writing = (path: string, mode: number): string =>
  `mkdir -p "$(dirname '${path}')" && cat >'${path}' && chmod ${mode.toString(8)} '${path}'`;

/** What a command printed that must not have failed. */
export function succeeded(script: string, { code, stdout, stderr }: Ran): string {
  if (code === 0) return stdout;
  throw new Error(`${script.slice(0, 500)}\nended with ${code}: ${stdout}${stderr}`);
}

/** Waits until something holds, asking again every so often. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  limitMs = LIMIT_MS,
  everyMs = 300,
): Promise<void> {
  const deadline = Date.now() + limitMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`after ${limitMs / 1000} s still not so: ${what}`);
    await Bun.sleep(everyMs);
  }
}
