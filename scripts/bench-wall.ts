/**
 * `make bench-wall`: what the second wall costs everybody else: new TCP connections of an ordinary user to an address that has
 * nothing to do with it, and look-ups of a route alone (connect(2) of a datagram socket), with the wall and without. Rounds
 * alternate; each figure is the median of its rounds, the ratio that of the medians. Needs root.
 */
import { FirewallNode } from "../test/firewall/node-support.ts";
import { mustExec } from "../test/support/node.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 7);
const SECONDS = Number(process.env["SECONDS_EACH"] ?? 2);
const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;

/** The longest wall that a node is likely to have: containers refused, three exempt accounts with gaps between, an agent here. */
const CONFIG = { containers: "reject", exempt: ["root", "5000", "6000", "7000"] };

const PROGRAM = `
import socket, sys, time
kind, seconds = sys.argv[1], float(sys.argv[2])
target = ("10.77.0.1", 8080) if kind == "streams" else ("10.77.0.1", 9)
type = socket.SOCK_STREAM if kind == "streams" else socket.SOCK_DGRAM
count, end = 0, time.monotonic() + seconds
if kind == "streams":
    while time.monotonic() < end:
        s = socket.socket(socket.AF_INET, type)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        s.connect(target); s.close(); count += 1
else:
    s = socket.socket(socket.AF_INET, type)
    while time.monotonic() < end:
        for _ in range(100): s.connect(target)
        count += 100
print(count / seconds)
`;

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

const firewall = await FirewallNode.start({});
const { node } = firewall;
try {
  node.write("/etc/imdsproxy/config.yaml", JSON.stringify(CONFIG));
  // Nothing but the wall goes and comes: the rules and the limits of connections stay.
  const withWall = () => mustExec(node, ROOT, ["imdsproxy", "iptables", "apply"]);
  const rules = await withWall().then(() => mustExec(node, ROOT, ["sh", "-c", "ip rule | wc -l"]));
  const withoutWall = () => firewall.script("test/firewall/without-wall.ts").done;
  const measure = async (kind: "streams" | "routes") => {
    const found: Record<"with" | "without", number[]> = { with: [], without: [] };
    for (let round = 0; round < ROUNDS; round++) {
      for (const [name, prepare] of [
        ["with", withWall],
        ["without", withoutWall],
      ] as const) {
        await prepare();
        const argv = ["/usr/bin/python3", "-c", PROGRAM, kind, String(SECONDS)];
        found[name].push(Number(await mustExec(node, ALICE, argv, { timeoutMs: (SECONDS + 30) * 1000 })));
      }
    }
    return found;
  };
  console.log(`${rules.trim()} routing rules of IPv4 with the wall; ${ROUNDS} rounds of ${SECONDS} s each`);
  for (const kind of ["streams", "routes"] as const) {
    const found = await measure(kind);
    const [a, b] = [median(found.with), median(found.without)];
    const what = kind === "streams" ? "new TCP connections" : "look-ups of a route";
    console.log(
      `${what}: ${Math.round(a)}/s with, ${Math.round(b)}/s without: ${(a / b).toFixed(3)}, ${((1 / a - 1 / b) * 1e6).toFixed(2)} µs each`,
    );
  }
} finally {
  await node.stop();
}
