import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { DEFAULT_LISTEN } from "../config/schema.ts";
import { ImdsProxyError } from "../errors.ts";
import { sleep } from "../platform/clock.ts";
import type { Running, RunOptions, RunResult } from "./run.ts";

/** How `serve` is started. */
export interface ProxyOptions {
  /** The configuration, written to /etc/imdsproxy/config.yaml: an object as JSON, which is YAML, or text as it is. */
  readonly config?: object | string;
  /** Flags of `serve`. */
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** The port that shows that it is ready; default 254. */
  readonly port?: number;
}

/** A proxy that runs on the simulated node. */
export interface RunningProxy {
  /** Its pid as the machine sees it. */
  readonly pid: number;
  /** Everything that it has written to standard output and standard error. */
  output(): string;
  /** Sends a signal, SIGTERM unless told, and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<RunResult>;
  /** Resolves when it has ended. */
  readonly done: Promise<RunResult>;
}

/** The parts of the node that the proxy needs. */
export interface ProxyHost {
  /** Any process of the node; its /proc entry shows the node's sockets. */
  readonly pid: number;
  path(nodePath: string): string;
  run(options: RunOptions): Running;
}

const READY_WITHIN_MS = 20_000;
const LISTEN_STATE = "0A";

/** Whether anything listens on the port in the network namespace of a process (proc(5), /proc/net/tcp). */
function listens(pid: number, port: number): boolean {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return readFileSync(`/proc/${pid}/net/tcp`, "utf8")
    .split("\n")
    .some((line) => {
      const [, local, , state] = line.trim().split(/\s+/);
      return state === LISTEN_STATE && local?.endsWith(wanted) === true;
    });
}

/** Starts `imdsproxy serve` as root; rejects with its output where it exits before it listens. */
export async function startProxyIn(host: ProxyHost, options: ProxyOptions): Promise<RunningProxy> {
  if (!existsSync(host.path("/run/bin/imdsproxy"))) {
    throw new ImdsProxyError(
      "missing",
      "the simulated node has no imdsproxy executable",
      "build it: make build",
    );
  }
  if (options.config !== undefined) {
    const text =
      typeof options.config === "string" ? options.config : JSON.stringify(options.config, null, 2);
    mkdirSync(host.path("/etc/imdsproxy"), { recursive: true });
    writeFileSync(host.path("/etc/imdsproxy/config.yaml"), text);
  }
  const port = options.port ?? DEFAULT_LISTEN.port;
  const running = host.run({
    argv: ["/run/bin/imdsproxy", "serve", ...(options.flags ?? [])],
    ...(options.env === undefined ? {} : { env: options.env }),
    timeoutMs: 0,
  });
  let ended: RunResult | null = null;
  void running.done.then((result) => {
    ended = result;
  });
  for (let waitedMs = 0; ; waitedMs += 5) {
    const pid = running.pid();
    if (ended === null && pid !== null && listens(host.pid, port)) {
      return {
        pid,
        output: () => running.stdout() + running.stderr(),
        async stop(signal = "SIGTERM") {
          running.kill(signal);
          return running.done;
        },
        done: running.done,
      };
    }
    if (ended !== null || waitedMs > READY_WITHIN_MS) {
      running.kill("SIGKILL");
      const { exitCode, stdout, stderr } = await running.done;
      throw new ImdsProxyError(
        "command-failed",
        `imdsproxy serve did not come to listen on port ${port} (exit ${exitCode}): ${(stdout + stderr).trim()}`,
      );
    }
    await sleep(5);
  }
}
