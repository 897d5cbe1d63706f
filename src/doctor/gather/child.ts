import { lookAtFiles } from "./files.ts";
import { lookAtProcess } from "./process.ts";
import type { Task } from "./requests.ts";

/**
 * The other side of `tasks.ts`: carries out tasks, one after the other, and says before each that it begins, so that its parent knows
 * which one does not end.
 */
export async function carryOut(input: string, write: (line: string) => void): Promise<void> {
  const tasks = JSON.parse(input) as readonly Task[];
  for (const [index, task] of tasks.entries()) {
    write(JSON.stringify({ begins: index }));
    const answer =
      task.kind === "files" ? lookAtFiles(task.request, task.networkHomes) : lookAtProcess(task.pid);
    write(JSON.stringify({ ends: index, answer }));
    // Lets the output be written before the next task.
    await Promise.resolve();
  }
}
