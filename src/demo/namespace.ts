import { readFileSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";

/**
 * Namespaces that die with this process. Their first process, the keeper, reads our end of a pipe: when this process
 * ends, by whatever signal, the pipe closes, the keeper ends, and the kernel kills every process in its pid namespace
 * and frees the network and the mounts. Nothing has to be cleaned up by hand.
 */
export interface Namespace {
  /** The keeper, as a pid of the machine; `/proc/PID/root` shows the namespace's files. */
  readonly pid: number;
  /** The command line that runs `argv` in the namespace. */
  enter(argv: readonly string[], view: NamespaceView): string[];
  /**
   * Registers a process that runs a command line of `enter`: nsenter(1) itself is in the network namespace and outside of
   * the pid namespace, so it ends a moment after what it ran.
   */
  entered(process: Pick<Bun.Subprocess, "exited" | "kill">): void;
  /** Ends every process in it; resolves when they are gone, those of `entered` included. */
  close(): Promise<void>;
}

/** `own`: the namespace's files. `machine`: the machine's, for programs of ours that lie where the namespace hides them. */
export type NamespaceView = "own" | "machine";

/** The environment of programs on the node. Ours may hold credentials, and is not passed on. */
export const CLEAN_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  LANG: "C.UTF-8",
};

/**
 * Opens new network, mount, pid and IPC namespaces, and runs `script` (POSIX sh) in them as root before it resolves.
 *
 * @param args the script's `$1`, `$2`, …
 * @throws ImdsProxyError `command-failed` with what the script said.
 */
export async function openNamespace(script: string, args: readonly string[]): Promise<Namespace> {
  const flags = ["--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"];
  const keeper = Bun.spawn(
    [
      "unshare",
      ...flags,
      "sh",
      "-c",
      `${script}\necho ready\nexec cat >/dev/null`,
      "imdsproxy-demo",
      ...args,
    ],
    // A session of its own, so that Ctrl-C at the terminal reaches this process alone.
    { stdin: "pipe", stdout: "pipe", stderr: "pipe", detached: true, env: CLEAN_ENVIRONMENT, cwd: "/" },
  );
  const reader = keeper.stdout.getReader();
  const first = await reader.read();
  const said = first.done ? "" : Buffer.from(first.value).toString();
  if (!said.includes("ready")) {
    keeper.kill("SIGKILL");
    const complaint = (await new Response(keeper.stderr).text()).trim();
    throw new ImdsProxyError(
      "command-failed",
      `cannot open namespaces for the simulated node: ${complaint || said || "unshare failed without a word"}`,
      "it needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN: in a container, run it with --privileged",
    );
  }
  const inside = new Set<Pick<Bun.Subprocess, "exited" | "kill">>();
  const children = readFileSync(`/proc/${keeper.pid}/task/${keeper.pid}/children`, "utf8").trim();
  const pid = Number(children);
  return {
    pid,
    enter(argv, view) {
      // Root and working directory become the keeper's: setns(2) alone would keep ours, which may be in a chroot.
      const mount = view === "own" ? ["--mount", "--root", "--wd"] : [];
      return ["nsenter", `--target=${pid}`, "--net", "--pid", "--ipc", ...mount, "--", ...argv];
    },
    entered(process) {
      inside.add(process);
      void process.exited.finally(() => inside.delete(process));
    },
    async close() {
      // Not by a signal to unshare: it has to reap the keeper, which no init may be there to do.
      keeper.stdin.end();
      // nsenter stops itself where its child was stopped (nsenter.c, WUNTRACED). Nobody else wakes it, and the namespace
      // does not end before its parents outside have waited for their children.
      for (const process of inside) process.kill("SIGCONT");
      await keeper.exited;
      while (inside.size > 0) await Promise.allSettled([...inside].map(({ exited }) => exited));
    },
  };
}

/** The child of a process that has exactly one, or null; where the kernel hides children, null as well. */
export function onlyChild(pid: number): number | null {
  try {
    const [first, second] = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
    return first === undefined || first === "" || second !== undefined ? null : Number(first);
  } catch {
    return null;
  }
}

/** A process and everything below it, deepest last. */
export function processTree(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return [
      pid,
      ...(children === "" ? [] : children.split(" ")).flatMap((child) => processTree(Number(child))),
    ];
  } catch {
    return [];
  }
}
