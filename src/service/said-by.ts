import { after } from "../platform/clock.ts";
import type { UsersChild } from "./spawn-as.ts";

/** The output of a child that runs as another user, who may have changed it. */
export interface Said {
  /** Its standard output and standard error, each up to the limit. */
  readonly text: string;
  readonly complaint: string;
  /** Null where a signal ended it. */
  readonly exitCode: number | null;
  /** Whether it was killed because it did not end in time, for instance because its user had stopped it (SIGSTOP). */
  readonly late: boolean;
}

/**
 * Collects a child's output until it ends. A child that exceeds a limit of time or output is killed.
 *
 * @param options.limitMs milliseconds from now.
 * @param options.mostLetters of standard output. What exceeds it of standard error is dropped.
 */
export function saidBy(
  child: UsersChild,
  { limitMs, mostLetters }: { readonly limitMs: number; readonly mostLetters: number },
): Promise<Said> {
  return new Promise((resolve, reject) => {
    let text = "";
    let complaint = "";
    let late = false;
    const finish = (exitCode: number | null) => {
      cancel();
      resolve({ text, complaint, exitCode, late });
    };
    const cancel = after(limitMs, () => {
      late = true;
      child.kill("SIGKILL");
      // A process that it has started may keep its output open.
      for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy();
      finish(null);
    });
    child.stdin.on("error", () => {});
    child.stdout.on("data", (bytes) => {
      text += String(bytes);
      if (text.length > mostLetters) child.kill("SIGKILL");
    });
    child.stderr.on("data", (bytes) => (complaint = (complaint + String(bytes)).slice(0, mostLetters)));
    child.on("error", (error) => {
      cancel();
      reject(error);
    });
    child.on("close", finish);
  });
}
