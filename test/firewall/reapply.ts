/**
 * Changes the rules again and again with the code that `imdsproxy iptables apply` runs, each time in another way, and
 * prints how many times it wrote: `reapply.ts COUNT`.
 */
import { systemIptables } from "../../src/firewall/iptables.ts";
import { apply } from "../../src/firewall/operations.ts";
import type { FirewallSpec } from "../../src/firewall/types.ts";

const base: FirewallSpec = {
  upstream: { address: "169.254.0.2", port: 9081 },
  listen: { address: "127.0.0.1", port: 254 },
  exemptUids: [0],
  containers: "leave",
};
const specs: readonly FirewallSpec[] = [
  base,
  { ...base, exemptUids: [0, 500] },
  { ...base, containers: "proxy" },
  { ...base, exemptUids: [0, 500, 501], containers: "reject" },
  { ...base, listen: { address: "127.0.0.1", port: 987 } },
  { ...base, upstream: { address: "169.254.169.254", port: 80 } },
];
/** What somebody else does to the way into our chains, none of which opens it: then apply moves the jump. */
const MEDDLING = [
  ["iptables", "-w", "-A", "OUTPUT", "-j", "IMDSPROXY"],
  ["iptables", "-w", "-I", "OUTPUT", "1", "-d", "192.0.2.1", "-j", "DROP"],
  ["iptables", "-w", "-t", "nat", "-I", "OUTPUT", "1", "-d", "192.0.2.1", "-j", "ACCEPT"],
] as const;
const TIDYING = [
  ["iptables", "-w", "-D", "OUTPUT", "-d", "192.0.2.1", "-j", "DROP"],
  ["iptables", "-w", "-t", "nat", "-D", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT"],
] as const;

const iptables = systemIptables();
let written = 0;
for (let i = 0; written < Number(process.argv[2]); i++) {
  if (i % 3 === 0) Bun.spawnSync([...(MEDDLING[(i / 3) % MEDDLING.length] ?? MEDDLING[0])]);
  const outcome = await apply(iptables, specs[i % specs.length] ?? base);
  if (outcome.changed) written++;
  if (i % 9 === 8) for (const command of TIDYING) Bun.spawnSync([...command]);
}
console.log(written);
