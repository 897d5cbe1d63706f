import { defineCommand } from "citty";
import { systemIptables } from "../../firewall/iptables.ts";
import { limitsStatus, limitsThere, TABLE_NAME } from "../../firewall/limits/own-table.ts";
import { listChains, listText } from "../../firewall/listing.ts";
import { type FirewallStatus, firewallStatus } from "../../firewall/status.ts";
import { portFacts } from "../../service/facts.ts";
import { portWarnings } from "../../service/port-warnings.ts";
import { type ProxyHealth, problemLines, proxyHealth } from "../../service/proxy-health.ts";
import { configArg, jsonArg } from "../common.ts";
import { resolveSpec, specArgs, specLine } from "./common.ts";

function statusLines(status: FirewallStatus, limits: readonly string[]): string[] {
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
    ...(status.healthy ? [] : ["  to put it right: sudo imdsproxy iptables apply"]),
    original,
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
    const found = { ...rules, healthy: rules.healthy && limits.problems.length === 0 };
    const notes = [
      ...found.notes,
      ...limits.notes,
      ...(resolved.unknownExempt === null ? [] : [resolved.unknownExempt.problem]),
      ...portWarnings(resolved.spec.listen, portFacts()),
    ];
    // Rules that are right give nobody credentials: what the proxy says of itself stands beside them.
    const proxy = await proxyHealth(resolved.spec);
    if (args.json) {
      const { spec, upstream } = resolved;
      console.log(
        JSON.stringify({ ...found, notes, limits, spec, upstreamReason: upstream.reason, proxy }, null, 2),
      );
    } else {
      const lines = [
        ...statusLines({ ...found, notes }, limits.problems),
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
    if (args.json) console.log(JSON.stringify(chains, null, 2));
    else {
      console.log(chains.length === 0 ? "no rules" : listText(chains, !args.all));
      if (limitsThere()) console.log(`\n# the limits of connections: nft list table inet ${TABLE_NAME}`);
    }
  },
});
