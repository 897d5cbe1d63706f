import { lstatSync } from "node:fs";
import { ImdsProxyError } from "../errors.ts";
import { monotonicMs, sleep, systemClock } from "../platform/clock.ts";
import { peerUid } from "../platform/unix-socket.ts";

/** Asks the running proxy over its status socket. The kernel tells the proxy who asks, and us who answers. */

/** Milliseconds for everything. The proxy asks the metadata service upstream before it answers root, which may take its time. */
const TIMEOUT_MS = 15_000;
/** Milliseconds for which a connection is tried again: where others have too many, and where the proxy may be starting again. */
const BUSY_MS = 5_000;
const STARTING_MS = 1_500;
const AGAIN_MS = 100;

/** Where to ask, and what is right there. */
export interface StatusSocket {
  readonly path: string;
  /** The directory of the socket: who owns it may answer, and root. */
  readonly directory: string;
  /** The longest answer in bytes. */
  readonly mostBytes: number;
}

/** The text of the answer; or why there is none. */
export type StatusReply =
  | { readonly kind: "answered"; readonly text: string }
  /** `why` is a sentence without its end. */
  | { readonly kind: "silent"; readonly why: string };

/**
 * Connects, and reads to the end.
 *
 * @throws ImdsProxyError `unsafe` where somebody else than the proxy could answer there, or does.
 */
export async function askStatus(socket: StatusSocket, timeoutMs: number = TIMEOUT_MS): Promise<StatusReply> {
  const owner = ownerOf(socket.directory);
  if (owner === null)
    return { kind: "silent", why: "the proxy is not running: its status socket is not there" };
  const startedMs = monotonicMs();
  for (;;) {
    const reply = await askOnce(socket, owner, timeoutMs);
    if (reply.kind === "answered") return reply;
    if (monotonicMs() - startedMs >= reply.againForMs) return { kind: "silent", why: reply.why };
    await sleep(AGAIN_MS);
  }
}

type Once =
  | { readonly kind: "answered"; readonly text: string }
  | { readonly kind: "silent"; readonly why: string; readonly againForMs: number };

/** @returns the uid that may answer beside root; null where the directory is not there. */
function ownerOf(directory: string): number | null {
  let found: ReturnType<typeof lstatSync>;
  try {
    found = lstatSync(directory);
  } catch {
    return null;
  }
  if (found.isDirectory() && (found.mode & 0o022) === 0) return found.uid;
  throw new ImdsProxyError(
    "unsafe",
    `${directory} can be changed by others than the service (mode ${(found.mode & 0o7777).toString(8)})`,
    `rm -r ${directory}; systemctl restart imdsproxy`,
  );
}

async function askOnce(socket: StatusSocket, owner: number, timeoutMs: number): Promise<Once> {
  const { promise, resolve, reject } = Promise.withResolvers<Once>();
  const silent = (why: string, againForMs = 0) => resolve({ kind: "silent", why, againForMs });
  const parts: Uint8Array[] = [];
  let length = 0;
  let connection: { terminate(): void } | null = null;
  const cancel = systemClock.schedule(timeoutMs, () =>
    silent(`the proxy has not answered within ${timeoutMs / 1_000} s`),
  );
  // The schedule alone does not keep the process alive; the connection does.
  try {
    connection = await Bun.connect({
      unix: socket.path,
      socket: {
        open(opened) {
          // Bun's types have no `fd`.
          const uid = peerUid((opened as unknown as { fd: number }).fd);
          if (uid === 0 || uid === owner) return;
          reject(
            new ImdsProxyError(
              "unsafe",
              `what answers at ${socket.path} is not the proxy: it runs as uid ${uid}`,
              "systemctl restart imdsproxy",
            ),
          );
          // Last: it calls `close`.
          opened.terminate();
        },
        data(_, part) {
          length += part.length;
          if (length > socket.mostBytes) silent("the answer is longer than any of the proxy's");
          else parts.push(new Uint8Array(part));
        },
        end: finish,
        close: finish,
        error: finish,
      },
    });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown";
    if (code === "ENOENT" || code === "ECONNREFUSED") silent("the proxy is not running", STARTING_MS);
    else silent(`its status socket cannot be asked (${code})`, BUSY_MS);
  }
  try {
    return await promise;
  } finally {
    cancel();
    connection?.terminate();
  }

  function finish(): void {
    if (length === 0) silent("the proxy is busy with other users' questions", BUSY_MS);
    else resolve({ kind: "answered", text: Buffer.concat(parts).toString("utf8") });
  }
}
