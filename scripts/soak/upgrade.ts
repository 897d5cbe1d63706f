import type { RunningProxy } from "../../src/demo/proxy.ts";
import { mustExec } from "../../test/support/node.ts";
import { eventually } from "../../test/support/proxied.ts";
import type { SimulatedNode } from "../../test/support/simulated-node.ts";

const ROOT = { user: "root" } as const;
/** The line of the log that says so. */
const READY = /"(?:msg|message)":"ready"/;
const MIGRATE_SYSCTL = "/proc/sys/net/ipv4/tcp_migrate_req";

/**
 * Starts a proxy that another may listen beside, as the service's unit does; resolves when it says that it is ready.
 *
 * @param executable by its path on the node.
 */
async function start(node: SimulatedNode, executable: string): Promise<RunningProxy> {
  const running = node.spawn({ ...ROOT, argv: [executable, "serve", "--share-port"], timeoutMs: 0 });
  const output = () => running.stdout() + running.stderr();
  let ended = false;
  void running.done.then(() => {
    ended = true;
  });
  await eventually(`${executable} is ready`, () => ended || READY.test(output()));
  const pid = running.pid();
  if (pid === null) throw new Error(`${executable} has ended: ${output()}`);
  return {
    ...{ pid, output, done: running.done },
    stop(signal = "SIGTERM") {
      running.kill(signal);
      return running.done;
    },
  };
}

/**
 * The proxy of a simulated node, of one version or another. A node in namespaces has no systemd, so `setup` cannot run there; what it
 * has systemd do in an upgrade (src/service/plan.ts: start-handover to end-handover) is done here in the same order.
 */
export class Replaceable {
  readonly #node: SimulatedNode;
  readonly #executables: readonly [string, string];
  #version = 0;
  #running: RunningProxy | null = null;

  /** @param executables by their paths on the node: this version, and the other. */
  constructor(node: SimulatedNode, executables: readonly [string, string]) {
    this.#node = node;
    this.#executables = executables;
  }

  get running(): RunningProxy {
    if (this.#running === null) throw new Error("the proxy was not started");
    return this.#running;
  }

  async start(): Promise<void> {
    this.#running = await this.#start();
  }

  /** Ends the proxy and starts it again: in between nobody answers. */
  async restart(signal: NodeJS.Signals): Promise<void> {
    await this.running.stop(signal);
    await this.start();
  }

  /** Replaces the proxy by the other version; at each moment one of them answers. */
  async replace(): Promise<void> {
    this.#version = 1 - this.#version;
    await mustExec(this.#node, ROOT, ["sh", "-c", `echo 1 >${MIGRATE_SYSCTL}`]);
    const meanwhile = await this.#start();
    await this.running.stop();
    await this.start();
    await meanwhile.stop();
    await mustExec(this.#node, ROOT, ["sh", "-c", `echo 0 >${MIGRATE_SYSCTL}`]);
  }

  #start(): Promise<RunningProxy> {
    return start(this.#node, this.#executables[this.#version] ?? "");
  }
}
