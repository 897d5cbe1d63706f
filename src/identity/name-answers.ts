import { existsSync, readFileSync, readSync, writeSync } from "node:fs";
import { sleepSync } from "../platform/clock.ts";
import { endWithParent, socketIsDead, subordinateOwners } from "../platform/nss.ts";
import type { NameMessage, NameQuestion } from "./name-protocol.ts";
import { nameService } from "./name-services.ts";
import { accountOfName, accountOfUid, type Walk } from "./name-walk.ts";
import { parseNameSwitch } from "./nsswitch.ts";

/**
 * The helper process that calls the modules of NSS: it reads a question, calls, writes the answer, and exits at the end of its
 * input. Every call may block; the parent kills a helper that takes too long.
 */

/** The socket of SSSD for its NSS module, and the cache file that the module reads (sssd's src/sss_client). */
const SSSD_SOCKET = "/var/lib/sss/pipes/nss";
const SSSD_CACHE = "/var/lib/sss/mc/passwd";

export function answerQuestions(): void {
  endWithParent();
  // A terminal sends its signals to the whole process group. This process ignores them: its parent decides when it ends.
  for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {});
  for (const line of linesOf(0)) write(answer(JSON.parse(line) as NameQuestion));
}

function answer(question: NameQuestion): NameMessage {
  if (question.kind === "owners") {
    write({ asking: question.service });
    return { owners: subordinateOwners(question.service, question.uid) };
  }
  const tests = {
    // SSSD is down where its socket refuses, or is absent while its cache exists. A node where it never ran has neither.
    sssdIsAway: () => socketIsDead(SSSD_SOCKET) || (!existsSync(SSSD_SOCKET) && existsSync(SSSD_CACHE)),
    onAsk: (service: string) => write({ asking: service }),
  };
  const walk: Walk = {
    services: parseNameSwitch(readSwitch()),
    open: (service) => nameService(service, question.skip, tests),
  };
  return {
    account:
      question.kind === "uid"
        ? accountOfUid(walk, question.uid, question.before)
        : accountOfName(walk, question.user),
  };
}

function readSwitch(): string {
  try {
    return readFileSync("/etc/nsswitch.conf", "latin1");
  } catch {
    return "";
  }
}

function write(message: NameMessage): void {
  const bytes = Buffer.from(`${JSON.stringify(message)}\n`);
  for (let at = 0; at < bytes.length; ) at += patiently(() => writeSync(1, bytes, at));
}

/** The lines of a descriptor until its end. */
function* linesOf(descriptor: number): Generator<string, void, undefined> {
  const chunk = Buffer.alloc(4_096);
  // A character can be in two pieces.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let pending = "";
  for (;;) {
    const length = patiently(() => readSync(descriptor, chunk));
    if (length === 0) return;
    const lines = (pending + decoder.decode(chunk.subarray(0, length), { stream: true })).split("\n");
    pending = lines.pop() ?? "";
    yield* lines;
  }
}

/** Repeats the call on EAGAIN: the runtime may have made the descriptor non-blocking. */
function patiently(call: () => number): number {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      sleepSync(1);
    }
  }
}
