import { defineCommand } from "citty";
import { systemIptables } from "../../firewall/iptables.ts";
import { limitsStatus, limitsThere, TABLE_NAME } from "../../firewall/limits/own-table.ts";
import { listenerLines, upstreamListeners } from "../../firewall/listeners.ts";
import { listChains, listText } from "../../firewall/listing.ts";
import { type FirewallStatus, firewallStatus } from "../../firewall/status.ts";
import { systemWall } from "../../firewall/wall/wall.ts";
import { withoutWall } from "../../firewall/walls.ts";
import { portFacts } from "../../service/facts.ts";
import { portWarnings } from "../../service/port-warnings.ts";
import { type ProxyHealth, problemLines, proxyHealth } from "../../service/proxy-health.ts";
import { configArg, jsonArg } from "../common.ts";
import { resolveSpec, specArgs, specLine } from "./common.ts";

/** State of the second wall. */
interface WallStatus {
  /** Why this kernel cannot have one; null where it can. */
  readonly unavailable: string | null;
  readonly problems: readonly string[];
}

function statusLines(
  status: FirewallStatus,
  limits: readonly string[],
  wall: WallStatus,
  agent: readonly string[],
): string[] {
  const { copies, aboveOurs } = status.original;
  const place = aboveOurs ? "before our redirect" : "after our redirect, where it does nothing";
  const original =
    copies === 0
      ? "the HyperPod agent's entry: not there"
      : `the HyperPod agent's entry: there${copies === 1 ? "" : ` ${copies} times`}, ${place}`;
  return [
    status.healthy ? "the firewall is as it should be" : "the firewall is NOT as it should be:",
    ...status.deviations.map(
      ({ family, table, detail }) => `  ${family === "ipv4" ? "IPv4" : "IPv6"} ${table}: ${detail}`,
    ),
    ...limits.map((problem) => `  ${problem}`),
    ...wall.problems.map((problem) => `  second wall: ${problem}`),
    ...(status.healthy ? [] : ["  to put it right: sudo imdsproxy iptables apply"]),
    ...(wall.unavailable === null
      ? wall.problems.length === 0
        ? ["the second wall (routing rules by uid): as it should be"]
        : []
      : [withoutWall(wall.unavailable)]),
    original,
    ...agent,
    ...status.notes.map((note) => `note: ${note}`),
  ];
}

function proxyLines(proxy: ProxyHealth): string[] {
  if (proxy.kind === "not-root") return [];
  if (proxy.kind === "silent") {
    const remedy = proxy.remedy === null ? "" : `: ${proxy.remedy}`;
    return [`note: the proxy does not answer: ${proxy.what}${remedy}`];
  }
  return proxy.problems.flatMap(problemLines);
}

export const status = defineCommand({
  meta: {
    name: "status",
    description: "Compare the rules with what they should be; exit 1 where they differ",
  },
  args: { ...specArgs, json: jsonArg },
  async run({ args }) {
    const resolved = await resolveSpec(args);
    const rules = await firewallStatus(systemIptables(), resolved.spec);
    const wanted = resolved.spec.limits;
    const limits = wanted === undefined ? { problems: [], notes: [] } : limitsStatus(wanted);
    const secondWall = systemWall();
    const wall = { unavailable: secondWall.unavailable, problems: secondWall.problems(resolved.spec) };
    const healthy = rules.healthy && limits.problems.length === 0 && wall.problems.length === 0;
    const found = { ...rules, healthy };
    const listeners = upstreamListeners(resolved.spec);
    const notes = [
      ...found.notes,
      ...limits.notes,
      ...(resolved.unknownExempt === null ? [] : [resolved.unknownExempt.problem]),
      ...portWarnings(resolved.spec.listen, portFacts()),
    ];
    // Right rules do not prove that callers get credentials, so the proxy's own health is shown as well.
    const proxy = await proxyHealth(resolved.spec);
    if (args.json) {
      const { spec, upstream } = resolved;
      const shown = {
        ...found,
        notes,
        limits,
        wall,
        listeners,
        spec,
        upstreamReason: upstream.reason,
        proxy,
      };
      console.log(JSON.stringify(shown, null, 2));
    } else {
      const lines = [
        ...statusLines({ ...found, notes }, limits.problems, wall, listenerLines(listeners)),
        specLine(resolved),
        ...proxyLines(proxy),
      ];
      console.log(lines.join("\n"));
    }
    if (!found.healthy) process.exitCode = 1;
  },
});

export const list = defineCommand({
  meta: { name: "list", description: "Show our chains and the rules that lead to them" },
  args: {
    config: { ...configArg, description: "Not needed: what is there is shown" },
    all: { type: "boolean", description: "Show every rule of the node", default: false },
    json: jsonArg,
  },
  async run({ args }) {
    const iptables = systemIptables();
    const chains = [];
    for (const { family, problem } of await iptables.access()) {
      if (problem !== null) console.error(`note: ${problem}`);
      else chains.push(...listChains(await iptables.read(family), family, !args.all));
    }
    const routing = systemWall().list(args.all);
    if (args.json) {
      const rules = routing.map((rule, i) => ({ position: i + 1, rule }));
      const wall = { family: "both", table: "routing", chain: "wall", policy: null, rules };
      console.log(JSON.stringify(rules.length === 0 ? chains : [...chains, wall], null, 2));
      return;
    }
    const parts = [
      ...(chains.length === 0 ? [] : [listText(chains, !args.all)]),
      ...(routing.length === 0 ? [] : [`# the second wall: ip rule, ip route\n${routing.join("\n")}`]),
    ];
    if (limitsThere()) parts.push(`# the limits of connections: nft list table inet ${TABLE_NAME}`);
    console.log(parts.length === 0 ? "no rules" : parts.join("\n\n"));
  },
});
