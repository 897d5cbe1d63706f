import { closeSync, existsSync, fstatSync, readSync, realpathSync, writeSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import { openLock, waitForLock } from "../platform/file-lock.ts";
import { anonymousFile, tryLock } from "../platform/libc.ts";
import { cleanEnvironment, findProgram, runProgram, startProgram } from "../platform/programs.ts";
import { ReentrantLock } from "../platform/reentrant-lock.ts";
import type { FamilyAccess, Iptables, Restore, WriteFailure } from "./operations.ts";
import { parseSave } from "./state.ts";
import { FAMILIES, type Family, type RuleSet } from "./types.ts";
import { withoutNss } from "./without-nss.ts";

/** The edge to iptables(8): finds its programs, reads with iptables-save, writes with iptables-restore. */

const PROGRAM: Record<Family, string> = { ipv4: "iptables", ipv6: "ip6tables" };
/** How long iptables-restore waits for the lock of other programs (iptables-legacy only; iptables-nft retries by itself). */
const WAIT_SECONDS = 10;
/** Serializes our own processes. In /run, where only root can make a file, so that no user can hold it. */
export const FIREWALL_LOCK = "/run/imdsproxy-iptables.lock";
const LOCK_WAIT_MS = 60_000;
const LOCK_POLL_MS = 20;
const NO_ROOM: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT", "EROFS", "EIO"]);

const isRoot = () => process.geteuid?.() === 0;

/** The two backends of iptables; neither shows the other's rules. */
type Backend = "nft" | "legacy";

const backendOf = (version: string): Backend => (version.includes("legacy") ? "legacy" : "nft");

/**
 * The machine's own iptables.
 *
 * @param backend one of the two, by the name of its programs; default: whichever `iptables` is on this node.
 * @param lock serializes changes, against other processes as well; shared by both backends.
 */
export function systemIptables(
  backend: Backend | null = null,
  lock: ReentrantLock = new ReentrantLock(takeLock),
): Iptables {
  const infix = backend === null ? "" : `-${backend}`;
  const programs = new Map<Family, Promise<{ save: string; restore: string[]; version: string } | string>>();

  /** The programs of a family, or why there are none. */
  const lookFor = async (
    family: Family,
  ): Promise<{ save: string; restore: string[]; version: string } | string> => {
    const name = `${PROGRAM[family]}${infix}`;
    // No file there: the kernel has no IPv6, or was started with ipv6.disable=1 (Documentation/networking/ipv6.rst).
    if (family === "ipv6" && !existsSync("/proc/net/if_inet6")) {
      return "IPv6 is off in this kernel: there is nothing to guard";
    }
    const save = findProgram(`${name}-save`);
    const restore = findProgram(`${name}-restore`);
    if (save === null || restore === null) {
      return family === "ipv4"
        ? `there is no ${name}-${save === null ? "save" : "restore"} in PATH, /usr/sbin or /sbin`
        : `IPv6 is not guarded: there is no ${name}-${save === null ? "save" : "restore"} here, though the kernel has IPv6`;
    }
    const { exitCode, stdout } = await runProgram([restore, "--version"]);
    // A signal ended it: the time limit, or the kernel for want of memory. Without the version, the backend would be a guess.
    if (exitCode > 128) {
      throw new ImdsProxyError(
        "command-failed",
        `cannot tell which iptables this is: ${restore} --version ended with ${exitCode}`,
        "see what it says by itself, and whether the node has memory and processor time left",
      );
    }
    const version = /v\d+(?:\.\d+)*(?: \([^)]*\))?/.exec(stdout)?.[0] ?? "unknown version";
    return { save, restore: [restore, ...waitFlag(version), "--noflush"], version };
  };
  const find = (family: Family) => {
    const known = programs.get(family);
    if (known !== undefined) return known;
    const found = lookFor(family);
    programs.set(family, found);
    // A failure may pass, such as that of a node without a free process. It is not kept.
    found.catch(() => programs.delete(family));
    return found;
  };
  const need = async (family: Family) => {
    const found = await find(family);
    if (typeof found !== "string") return found;
    throw new ImdsProxyError(
      "missing",
      `cannot work on the firewall: ${found}`,
      "install iptables (Debian, Ubuntu: iptables; Amazon Linux: iptables-nft)",
    );
  };

  return {
    async access() {
      const found: FamilyAccess[] = [];
      for (const family of FAMILIES) {
        const program = family === "ipv4" && backend === null ? await need(family) : await find(family);
        found.push(
          typeof program === "string"
            ? { family, version: null, problem: program }
            : { family, version: program.version, problem: null },
        );
      }
      return found;
    },
    async read(family): Promise<RuleSet> {
      const { save } = await need(family);
      const { exitCode, stdout, stderr } = await runProgram([save]);
      if (exitCode !== 0) {
        throw refused(`cannot read the rules: ${save} ended with ${exitCode}: ${stderr.trim()}`);
      }
      return parseSave(stdout);
    },
    async otherBackend() {
      if (backend !== null) return null;
      const found = await find("ipv4");
      if (typeof found === "string") return null;
      const other = systemIptables(backendOf(found.version) === "legacy" ? "nft" : "legacy", lock);
      return (await other.access()).some(({ problem }) => problem === null) ? other : null;
    },
    async readOtherBackend() {
      const other = await this.otherBackend();
      // Both are read without loading a table: iptables-legacy-save shows only those that somebody uses.
      return other === null ? null : await other.read("ipv4").catch(() => null);
    },
    async write(restores) {
      const commands: string[][] = [];
      for (const { family } of restores) commands.push((await need(family)).restore);
      // The child inherits the lock, which is therefore held until both processes have ended.
      return runRestores(restores, commands, lock.descriptor);
    },
    async commandOf(family) {
      return (await need(family)).restore.join(" ");
    },
    exclusively: (work) => lock.run(work),
  };
}

/** iptables-restore takes -w since 1.6.2 (its release notes). */
function waitFlag(version: string): string[] {
  const [major = 0, minor = 0, patch = 0] = (/[\d.]+/.exec(version)?.[0] ?? "99").split(".").map(Number);
  const number = major * 1e6 + minor * 1e3 + patch;
  return number >= 1_006_002 ? ["-w", String(WAIT_SECONDS)] : [];
}

/**
 * Runs `work` unless a process of ours, this one included, is changing rules; then it returns null. Never waits. Where the
 * lock's file cannot be made, as on a full /run, `work` runs without it.
 */
export function unlessChanging<T>(work: () => T): T | null {
  let lock: number | null = null;
  try {
    lock = openLock(FIREWALL_LOCK);
  } catch {
    // No lock.
  }
  try {
    return lock !== null && !tryLock(lock) ? null : work();
  } finally {
    if (lock !== null) closeSync(lock);
  }
}

/** The real paths of the node's iptables programs: they change when its alternatives are switched. Starts no process. */
export function backendStamp(): string {
  return FAMILIES.map((family) => {
    try {
      return realpathSync(findProgram(`${PROGRAM[family]}-save`) ?? "");
    } catch {
      return "none";
    }
  }).join(" ");
}

/** Null where /run is full: each table is written atomically, and a mix of two writers is found when the rules are read back. */
async function takeLock(): Promise<number | null> {
  let descriptor: number | null;
  try {
    descriptor = await waitForLock(FIREWALL_LOCK, { limitMs: LOCK_WAIT_MS, pollMs: LOCK_POLL_MS });
  } catch (error) {
    if (NO_ROOM.has((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw refused(
      `cannot take the lock ${FIREWALL_LOCK}: ${(error as NodeJS.ErrnoException).code ?? "unknown"}`,
    );
  }
  if (descriptor !== null) return descriptor;
  throw new ImdsProxyError(
    "command-failed",
    `another imdsproxy has been changing the firewall for ${LOCK_WAIT_MS / 1000} s (it holds ${FIREWALL_LOCK})`,
    "look for an iptables-restore that hangs",
  );
}

/** The error where the system refuses: without root, that is the reason. */
function refused(problem: string): ImdsProxyError {
  return isRoot()
    ? new ImdsProxyError(
        "command-failed",
        problem,
        "see what iptables itself says: iptables-save; ip6tables-save",
      )
    : new ImdsProxyError("permission", problem, "run it as root: with sudo");
}

const COMPLAINT_BYTES = 64 * 1024;

/**
 * Runs all restores under one shell, which ignores the signals that may end this process and has anonymous files for input and
 * output. Once started it therefore completes, even where this process is killed (kill -9) or interrupted (Ctrl-C).
 */
async function runRestores(
  restores: readonly Restore[],
  commands: readonly (readonly string[])[],
  lock: number | null,
): Promise<WriteFailure | null> {
  const complaints = anonymousFile("imdsproxy-iptables-errors");
  const inputs: number[] = [];
  try {
    for (const { text } of restores) {
      const input = anonymousFile("imdsproxy-iptables-rules");
      inputs.push(input);
      const bytes = Buffer.from(text);
      if (writeSync(input, bytes, 0, bytes.length, 0) !== bytes.length) throw new Error("short write");
    }
    const steps = commands.map(
      (command, i) =>
        `${command.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ")} <&${3 + i} || exit ${100 + i}`,
    );
    const script = ["trap '' HUP INT TERM PIPE", ...steps].join("\n");
    const child = startProgram("/bin/sh", () =>
      Bun.spawn(["/bin/sh", "-c", script], {
        stdio: ["ignore", complaints, complaints, ...inputs, ...(lock === null ? [] : [lock])],
        env: { ...cleanEnvironment(), ...withoutNss() },
      }),
    );
    const exitCode = await child.exited;
    if (exitCode === 0) return null;
    const failed = restores[exitCode - 100];
    const said = readAll(complaints).trim() || `exit status ${exitCode}`;
    const { family, text } = failed ?? restores[0] ?? { family: "ipv4" as const, text: "" };
    return { family, error: explain(family, text, said) };
  } finally {
    for (const descriptor of [complaints, ...inputs]) closeSync(descriptor);
  }
}

function readAll(descriptor: number): string {
  const bytes = Buffer.alloc(Math.min(fstatSync(descriptor).size, COMPLAINT_BYTES));
  return bytes.toString("utf8", 0, readSync(descriptor, bytes, 0, bytes.length, 0));
}

/** Quotes the line that iptables-restore complains of: it shows which match or target the kernel lacks. */
function explain(family: Family, text: string, said: string): ImdsProxyError {
  const problem = `${PROGRAM[family]}-restore did not take the rules: ${said.replaceAll("\n", "; ")}`;
  if (!isRoot()) return new ImdsProxyError("permission", problem, "run it as root: with sudo");
  const number = /line:? (\d+)/i.exec(said)?.[1];
  const line = number === undefined ? undefined : text.split("\n")[Number(number) - 1];
  return new ImdsProxyError(
    "command-failed",
    line === undefined ? problem : `${problem} (line ${number} is: ${line})`,
    "the kernel must have nf_conntrack, nf_nat and the matches owner, conntrack, tcp, and addrtype for containers: proxy, " +
      "and the target REJECT (modules xt_owner, xt_conntrack, xt_addrtype, ipt_REJECT, ip6t_REJECT)",
  );
}
