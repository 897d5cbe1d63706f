import { resolve } from "node:path";
import type { Running, RunResult } from "../../src/demo/run.ts";
import { mustExec, startTestNode } from "../support/node.ts";
import type { NodeOptions, SimulatedNode, Who } from "../support/simulated-node.ts";

export const ALICE: Who = { user: "alice" };
export const ROOT: Who = { user: "root" };
export const AGENT = ["169.254.0.2", "9081"] as const;
export const METADATA = ["169.254.169.254", "80"] as const;
export const METADATA6 = ["fd00:ec2::254", "80"] as const;
/** The agent's own entry, as iptables takes it. */
export const ENTRY =
  "-d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081".split(" ");

const REPOSITORY = resolve(import.meta.dir, "../..");
const PYTHON = "/usr/bin/python3";
const PROBE = "/run/repository/test/firewall/probe.py";
const BUN = "/run/repository/node_modules/.bin/bun";

/** A simulated node with helpers for rules and connections. */
export class FirewallNode {
  readonly node: SimulatedNode;
  constructor(node: SimulatedNode) {
    this.node = node;
  }

  static async start(options: NodeOptions): Promise<FirewallNode> {
    return new FirewallNode(await startTestNode({ ...options, show: { "/run/repository": REPOSITORY } }));
  }

  /** Runs `imdsproxy iptables ...`. */
  iptables(...args: string[]): Promise<RunResult> {
    return this.iptablesAs(ROOT, args);
  }
  iptablesAs(who: Who, args: readonly string[], env: Record<string, string> = {}): Promise<RunResult> {
    return this.node.exec({ ...who, argv: ["imdsproxy", "iptables", ...args], env });
  }
  /** The same, and an error where it does not end well. */
  async must(...args: string[]): Promise<string> {
    return mustExec(this.node, ROOT, ["imdsproxy", "iptables", ...args]);
  }
  /** A line of shell as root. */
  shell(line: string): Promise<string> {
    return mustExec(this.node, ROOT, ["sh", "-euc", line]);
  }

  /** Every rule of both families without counters, dates, and tables in which there is nothing. */
  async rules(): Promise<string> {
    const saved = await this.shell("iptables-save; echo; echo ipv6; ip6tables-save");
    const tables: string[][] = [];
    for (const line of saved.split("\n")) {
      if (line.startsWith("#") || line === "" || line === "COMMIT") continue;
      if (line.startsWith("*") || line === "ipv6") tables.push([line]);
      else tables.at(-1)?.push(line.replace(/ \[\d+:\d+\]$/, ""));
    }
    // iptables-nft makes a table when it is asked for one, and iptables-legacy lists them by their last use.
    const filled = tables.filter(
      ([name, ...lines]) => name === "ipv6" || lines.some((line) => !/^:\S+ ACCEPT$/.test(line)),
    );
    const at = filled.findIndex(([name]) => name === "ipv6");
    const sorted = (some: string[][]) => some.map((lines) => lines.join("\n")).sort();
    return [...sorted(filled.slice(0, at)), "ipv6", ...sorted(filled.slice(at + 1))].join("\n");
  }

  probe(who: Who, ...args: string[]): Running {
    return this.node.spawn({ ...who, argv: [PYTHON, PROBE, ...args], timeoutMs: 0 });
  }
  /** What a probe printed. */
  async ask(who: Who, ...args: string[]): Promise<string> {
    const { stdout, stderr } = await this.probe(who, ...args).done;
    return stdout.trim() || stderr.trim();
  }
  /** Starts stand-ins for the proxy, and waits until they answer. */
  async listen(...listeners: readonly (readonly [string, string])[]): Promise<Running[]> {
    const running = listeners.map(([address, port]) => this.probe(ROOT, "listen", address, port));
    for (const [address, port] of listeners) {
      const host = address === "0.0.0.0" ? "127.0.0.1" : address === "::" ? "::1" : address;
      for (let i = 0; (await this.ask(ROOT, "ask", host, port)) !== "proxy"; i++) {
        if (i > 100) throw new Error(`nothing listens at ${address}:${port}`);
      }
    }
    return running;
  }
  /** Runs a TypeScript file of the repository as root on the node. */
  script(path: string, ...args: string[]): Running {
    return this.node.spawn({ ...ROOT, argv: [BUN, `/run/repository/${path}`, ...args], timeoutMs: 0 });
  }
  /** A fresh directory that everybody may write to. */
  async directory(): Promise<string> {
    return (await this.shell("d=$(mktemp -d /dev/shm/probe.XXXXXX); chmod 777 $d; echo $d")).trim();
  }
  async waitFor(path: string): Promise<void> {
    await this.shell(`until [ -e ${path} ]; do sleep 0.01; done`);
  }
  /** Nothing of ours runs any more. */
  async settled(): Promise<void> {
    await this.shell("touch /run/imdsproxy-iptables.lock; flock /run/imdsproxy-iptables.lock true");
  }
}
