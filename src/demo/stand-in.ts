import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { ImdsProxyError } from "../errors.ts";
import { NO_LATER_THREADS } from "../platform/engine-options.ts";
import { selfCommand } from "../platform/self.ts";
import { CLEAN_ENVIRONMENT, type Namespace } from "./namespace.ts";
import type { PartAnswer, PartCall, PartStart } from "./part.ts";

/** A stand-in that runs in a namespace, as seen from here. */
export interface RemotePart {
  /** Calls a control of the stand-in; rejects with what it said, or where it has ended. */
  call(method: string, params?: unknown): Promise<unknown>;
}

/** This program, serving the demo's parts. */
export const demoParts = (): string[] => [...selfCommand(), "demo-part"];

/**
 * Starts the named part (see part.ts) as root in a namespace; resolves when it listens. It dies with the namespace.
 *
 * @param server the command line that serves parts.
 */
export async function startPart(
  namespace: Namespace,
  server: readonly string[],
  part: string,
  options: unknown,
): Promise<RemotePart> {
  const command = namespace.enter([...server], "machine");
  const child = Bun.spawn(command, {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    // Without it, a stand-in aborts where a test uses up the node's process ids.
    env: { ...CLEAN_ENVIRONMENT, ...NO_LATER_THREADS },
    detached: true,
  });
  namespace.entered(child);
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let nextId = 0;

  const complaint = new Response(child.stderr).text();
  const ended = child.exited.then(async () => {
    const error = new ImdsProxyError(
      "command-failed",
      `the ${part} stand-in of the simulated node ended: ${(await complaint).trim() || `exit ${child.exitCode}`}`,
    );
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
    return error;
  });

  createInterface({ input: Readable.fromWeb(child.stdout as never) }).on("line", (line) => {
    const answer = JSON.parse(line) as PartAnswer;
    const caller = waiting.get(answer.id);
    waiting.delete(answer.id);
    if ("error" in answer) caller?.reject(new Error(answer.error));
    else caller?.resolve(answer.result);
  });

  async function send(message: PartStart | PartCall, id: number): Promise<unknown> {
    if (child.exitCode !== null) throw await ended;
    const answer = new Promise<unknown>((resolve, reject) => waiting.set(id, { resolve, reject }));
    child.stdin.write(`${JSON.stringify(message)}\n`);
    child.stdin.flush();
    return answer;
  }

  await send({ part, options }, nextId++);
  return {
    call(method, params = null) {
      const id = nextId++;
      return send({ id, method, params }, id);
    },
  };
}
