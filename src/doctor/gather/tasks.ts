import { readFileSync } from "node:fs";
import { after } from "../../platform/clock.ts";
import { spawnAs, type UserIds } from "../../service/spawn-as.ts";
import type { Task } from "./requests.ts";

/**
 * Has tasks carried out by a child process, each within a limit of time: a file system or a process that does not answer costs that
 * limit and nothing else, since the child is killed and another goes on with the next task.
 */

export interface TasksOptions<T> {
  readonly as: UserIds;
  /**
   * Reads an answer; null where it is none. The child may have an ordinary user's uid, and another process of that user can make it
   * say anything (ptrace(2)).
   */
  readonly read: (answer: unknown) => T | null;
  /** Milliseconds for one task. */
  readonly limitMs: number;
  /** How many tasks may fail to end before the rest is left out. */
  readonly mostHanging: number;
}

/** The answer of each task in their order; null for one that did not end. `left` were not begun. */
export interface TasksResult<T> {
  readonly answers: readonly (T | null)[];
  readonly hanging: readonly number[];
  readonly left: number;
  /** Why the child failed; null where it did not. */
  readonly failure: string | null;
}

export async function carriedOut<T>(
  tasks: readonly Task[],
  options: TasksOptions<T>,
): Promise<TasksResult<T>> {
  const answers: (T | null)[] = tasks.map(() => null);
  const hanging: number[] = [];
  let from = 0;
  while (from < tasks.length) {
    if (hanging.length >= options.mostHanging)
      return { answers, hanging, left: tasks.length - from, failure: null };
    const start = from;
    const run = await runFrom<T>(tasks.slice(start), options, (index, answer) => {
      answers[start + index] = answer;
    });
    if (run.kind === "done") break;
    if (run.kind === "failed") return { answers, hanging, left: tasks.length - start, failure: run.why };
    hanging.push(start + run.index);
    from = start + run.index + 1;
  }
  return { answers, hanging, left: 0, failure: null };
}

type Run =
  | { readonly kind: "done" }
  | { readonly kind: "hangs"; readonly index: number }
  | { readonly kind: "failed"; readonly why: string };

/** The most bytes that a child may write. */
const MOST_BYTES = 32 * 1024 * 1024;
/** Milliseconds that a child has to start in, on a busy machine. */
const START_MS = 60_000;
/** Milliseconds to read what the child has written already. */
const GRACE_MS = 500;
/** How often the limit is renewed for a child that waits for nothing but a processor. */
const MOST_EXTENSIONS = 20;

/** Whether a process could run if it had a processor (proc_pid_stat(5), "R"): then nothing hangs. */
function isRunnable(pid: number): boolean {
  try {
    return /^\d+ \(.*\) R /s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

function runFrom<T>(
  tasks: readonly Task[],
  { as, limitMs, read }: TasksOptions<T>,
  take: (index: number, answer: T | null) => void,
): Promise<Run> {
  return new Promise((resolve) => {
    const child = spawnAs(as, ["doctor-look"]);
    let begun = -1;
    let ended = -1;
    let rest = "";
    let bytesSaid = 0;
    let complaint = "";
    const finish = (run: Run) => {
      cancel();
      // A child that hangs on a dead mount ends only when the kernel lets it, so this process does not wait for its end.
      child.kill("SIGKILL");
      child.unref();
      for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy();
      resolve(run);
    };
    const isIndex = (value: unknown): value is number =>
      Number.isSafeInteger(value) && Number(value) >= 0 && Number(value) < tasks.length;
    let extensions = 0;
    const late = () => {
      cancel = after(GRACE_MS, () => {
        if (child.pid !== undefined && isRunnable(child.pid) && extensions++ < MOST_EXTENSIONS)
          cancel = after(limitMs, late);
        else
          finish(
            begun > ended ? { kind: "hangs", index: begun } : { kind: "failed", why: "it does not start" },
          );
      });
    };
    let cancel = after(START_MS, late);
    child.stdin.on("error", () => {});
    child.stdin.end(JSON.stringify(tasks));
    child.stderr.on("data", (bytes) => (complaint = (complaint + String(bytes)).slice(0, 2_000)));
    child.stdout.on("data", (bytes) => {
      cancel();
      cancel = after(limitMs, late);
      bytesSaid += bytes.length;
      rest += String(bytes);
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      try {
        if (bytesSaid > MOST_BYTES) throw new Error("it says too much");
        for (const line of lines) {
          const { begins, ends, answer } = JSON.parse(line) as Record<string, unknown>;
          if (isIndex(begins)) begun = begins;
          if (!isIndex(ends)) continue;
          ended = ends;
          take(ends, read(answer));
        }
      } catch {
        finish({ kind: "failed", why: "it does not answer as it should" });
      }
    });
    child.on("error", (error) => finish({ kind: "failed", why: error.message }));
    child.on("close", () =>
      finish(
        ended === tasks.length - 1
          ? { kind: "done" }
          : begun > ended
            ? { kind: "hangs", index: begun }
            : { kind: "failed", why: complaint.trim().split("\n")[0] || "it ended early" },
      ),
    );
  });
}
