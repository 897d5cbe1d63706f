import { after } from "../platform/clock.ts";
import type { UsersChild } from "./spawn-as.ts";

/** What a child said that runs as another user, who may have changed it. */
export interface Said {
  /** Its standard output and standard error, each up to the limit. */
  readonly text: string;
  readonly complaint: string;
  /** Null where a signal ended it. */
  readonly exitCode: number | null;
  /** Whether it was killed because it did not end in time, as one does that its user has stopped (SIGSTOP). */
  readonly late: boolean;
}

/**
 * Everything that a child says until it ends. One that says or takes more than it may is killed.
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
