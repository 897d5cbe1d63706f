import { ImdsProxyError } from "../errors.ts";
import { isListenedAt } from "../platform/unix-socket.ts";
import { ROOT_SOCKET, STATUS_DIRECTORY } from "../telemetry/status-document.ts";
import { StatusServer, type StatusServerOptions } from "./status-server.ts";

/**
 * Whether this is the unit of the proxy. systemd makes the directory of the sockets of `imdsproxy status` for it, and names it in
 * RUNTIME_DIRECTORY (systemd.exec(5)); the second proxy of an upgrade has none.
 */
const isUnit = (): boolean => (process.env["RUNTIME_DIRECTORY"] ?? "").split(":").includes(STATUS_DIRECTORY);

/** Whether this process answers `imdsproxy status`. Root makes the directory itself. */
export const servesStatus = (): boolean => isUnit() || process.getuid?.() === 0;

/**
 * Answers `imdsproxy status` until the returned function is called.
 *
 * @throws ImdsProxyError `unsafe` where the sockets cannot be made; `port-taken` where another proxy than the unit's has them.
 */
export function startStatus(options: StatusServerOptions): () => void {
  // One that root starts beside the service, to try something, takes nothing from it: the status would be that of the wrong proxy, and
  // of none when this one ends.
  if (!isUnit() && isListenedAt(ROOT_SOCKET)) {
    throw new ImdsProxyError(
      "port-taken",
      `another proxy answers at ${ROOT_SOCKET}`,
      "leave it: imdsproxy status tells of that one, and of this one once that has ended",
    );
  }
  try {
    return new StatusServer(options).start();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const why = code ?? (error instanceof Error ? error.message : "unknown");
    throw new ImdsProxyError(
      "unsafe",
      `no socket can be made in ${STATUS_DIRECTORY} (${why})`,
      `see whether it can be written: ls -ld ${STATUS_DIRECTORY}; df -i ${STATUS_DIRECTORY}`,
    );
  }
}
