import { existsSync, readFileSync } from "node:fs";
import type { Running } from "../../../src/demo/run.ts";
import { BRIDGE } from "../../support/bridge.ts";
import { mustExec } from "../../support/node.ts";
import { eventually } from "../../support/proxied.ts";
import type { SimulatedNode } from "../../support/simulated-node.ts";

const ROOT = { user: "root" };
const ALICE = { user: "alice" };

/** A bridge with one container, and what the node had before us. */
export const BESIEGED = `${BRIDGE}
# What the node had before us, as an operator would have saved it: the agent's entry, Docker's rules, none of ours.
iptables-save >/run/before.rules
ip6tables-save >/run/before6.rules
printf 'flush ruleset\\ntable inet filter { chain output { type filter hook output priority 0; policy accept; }; }\\n' >/run/nftables.conf
# What nft does not take would flush nothing.
nft -c -f /run/nftables.conf
`;

/** What one of them came to; `ways` are those by which the instance role was had. */
interface Thefts {
  readonly asked: number;
  readonly leaks: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly ways: Readonly<Record<string, number>>;
}
export type Reports = Record<"alice" | "box" | "root", Thefts>;

/** On a node with the bridge, a user, a container and root ask for the instance role in every way that each has, until it is ended. */
export class Siege {
  readonly #node: SimulatedNode;
  readonly #directory: string;
  readonly #thieves: Readonly<Record<"alice" | "box" | "root", Running>>;

  private constructor(node: SimulatedNode, directory: string) {
    this.#node = node;
    this.#directory = directory;
    const start = (who: { user: string }, name: string, before: string[], what: string) =>
      node.spawn({
        ...who,
        argv: [
          ...before,
          "/usr/bin/python3",
          "/run/attack/thief.py",
          node.roleName,
          `${directory}/stop`,
          `${directory}/${name}`,
          what,
        ],
        env: {
          ADDRESSES: "127.0.0.1,10.77.0.2,169.254.0.2,172.17.0.1,::1,fd77::2",
          DEVICES: "lo,eth0,docker0,veth0",
        },
        timeoutMs: 0,
      });
    this.#thieves = {
      alice: start(ALICE, "alice", [], "users"),
      box: start(ROOT, "box", ["ip", "netns", "exec", "box"], "plain"),
      root: start(ROOT, "root", [], "plain"),
    };
  }
  static async begin(node: SimulatedNode): Promise<Siege> {
    const make = "d=$(mktemp -d /dev/shm/thief.XXXXXX); chmod 777 $d; echo $d";
    const siege = new Siege(node, (await mustExec(node, ROOT, ["sh", "-c", make])).trim());
    await siege.rounds(1);
    return siege;
  }
  #said(name: string): string {
    const path = this.#node.path(`${this.#directory}/${name}`);
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }
  /** How many answers with the instance role alice and the container have had. */
  get leaks(): number {
    return [...this.#said("alice"), ...this.#said("box")].filter((one) => one === "L").length;
  }
  /** Waits until alice has tried each of her ways, and the container its own, so often more. */
  async rounds(more: number): Promise<void> {
    const count = () => ["alice", "box"].map((name) => this.#said(name).replaceAll("L", "").length);
    const before = count();
    await eventually(
      "everybody asks",
      () => count().every((now, i) => now >= (before[i] ?? 0) + more),
      120_000,
    );
  }
  /** Ends it. */
  async end(): Promise<Reports> {
    await mustExec(this.#node, ROOT, ["touch", `${this.#directory}/stop`]);
    const reports = Object.entries(this.#thieves).map(async ([name, { done }]) => {
      const { stdout, stderr } = await done;
      if (stdout === "") throw new Error(stderr);
      return [name, JSON.parse(stdout) as Thefts] as const;
    });
    return Object.fromEntries(await Promise.all(reports)) as Reports;
  }
}
