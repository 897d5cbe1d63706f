import { defineCommand } from "citty";
import { systemIptables } from "../../firewall/iptables.ts";
import { limitsThere, TABLE_NAME } from "../../firewall/limits/own-table.ts";
import { listenerLines, upstreamListeners } from "../../firewall/listeners.ts";
import { listChains, listText } from "../../firewall/listing.ts";
import { systemWall } from "../../firewall/wall/wall.ts";
import { withoutWall } from "../../firewall/walls.ts";
import { portFacts } from "../../service/facts.ts";
import { portWarnings } from "../../service/port-warnings.ts";
import { type ProxyHealth, proxyHealth } from "../../service/proxy-health.ts";
import { type RulesStatus, rulesStatus } from "../../service/rules-status.ts";
import { listenOfKnownRules, servedListen } from "../../service/served-listen.ts";
import { configArg, jsonArg } from "../common.ts";
import { problemLines } from "../problem-lines.ts";
import { say, sayBeside } from "../say.ts";
import { jsonText } from "../terminal.ts";
import { resolveSpec, specArgs, specLine } from "./common.ts";

function statusLines(found: RulesStatus, notes: readonly string[], agent: readonly string[]): string[] {
  const { wall } = found;
  const { copies, aboveOurs } = found.rules.original;
  const place = aboveOurs ? "before our redirect" : "after our redirect, where it does nothing";
  const original =
    copies === 0
      ? "the HyperPod agent's entry: not there"
      : `the HyperPod agent's entry: there${copies === 1 ? "" : ` ${copies} times`}, ${place}`;
  return [
    found.healthy ? "the firewall is as it should be" : "the firewall is NOT as it should be:",
    ...found.differences.map((difference) => `  ${difference}`),
    ...(found.healthy ? [] : ["  to put it right: sudo imdsproxy iptables apply"]),
    ...(wall.unavailable === null
      ? wall.problems.length === 0
        ? ["the second wall (routing rules by uid): as it should be"]
        : []
      : [withoutWall(wall.unavailable)]),
    original,
    ...agent,
    ...notes.map((note) => `note: ${note}`),
  ];
}

function proxyLines(proxy: ProxyHealth): string[] {
  if (proxy.kind === "not-root") return [];
  if (proxy.kind === "silent") {
    const remedy = proxy.remedy === null ? "" : `: ${proxy.remedy}`;
    return [`note: the proxy does not answer: ${proxy.what}${remedy}`];
  }
  return proxy.problems.flatMap((problem) => problemLines(problem));
}

export const status = defineCommand({
  meta: {
    name: "status",
    description: "Compare the rules with what they should be; exit 1 where they differ",
  },
  args: { ...specArgs, json: jsonArg },
  async run({ args }) {
    const resolved = await resolveSpec(args);
    // Of a flag: what would be right there is asked, not what is.
    const before = args.listen === undefined ? listenOfKnownRules() : null;
    const served = servedListen(resolved.spec, before);
    const found = await rulesStatus(served.spec);
    const { limits, wall } = found;
    const listeners = upstreamListeners(resolved.spec);
    const notes = [
      ...(served.note === null ? [] : [served.note]),
      ...found.notes,
      ...(resolved.unknownExempt === null ? [] : [resolved.unknownExempt.problem]),
      ...portWarnings(resolved.spec.listen, portFacts()),
    ];
    // Right rules do not prove that callers get credentials, so the proxy's own health is shown as well.
    const proxy = await proxyHealth(resolved.spec);
    if (args.json) {
      const { spec, upstream } = resolved;
      const shown = {
        ...found.rules,
        healthy: found.healthy,
        notes,
        limits,
        wall,
        listeners,
        spec,
        upstreamReason: upstream.reason,
        proxy,
      };
      console.log(jsonText(shown));
    } else {
      const lines = [
        ...statusLines(found, notes, listenerLines(listeners)),
        specLine(resolved),
        ...proxyLines(proxy),
      ];
      say(lines.join("\n"));
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
      if (problem !== null) sayBeside(`note: ${problem}`);
      else chains.push(...listChains(await iptables.read(family), family, !args.all));
    }
    const routing = systemWall().list(args.all);
    const shownBy = `nft list table inet ${TABLE_NAME}`;
    if (args.json) {
      const rules = routing.map((rule, i) => ({ position: i + 1, rule }));
      const wall = { family: "both", table: "routing", chain: "wall", policy: null, rules };
      const limits = { family: "both", table: TABLE_NAME, chain: "limits", policy: null, rules: [], shownBy };
      console.log(
        jsonText([...chains, ...(rules.length === 0 ? [] : [wall]), ...(limitsThere() ? [limits] : [])]),
      );
      return;
    }
    const parts = [
      ...(chains.length === 0 ? [] : [listText(chains, !args.all)]),
      ...(routing.length === 0 ? [] : [`# the second wall: ip rule, ip route\n${routing.join("\n")}`]),
    ];
    if (limitsThere()) parts.push(`# the limits of connections: ${shownBy}`);
    console.log(parts.length === 0 ? "no rules" : parts.join("\n\n"));
  },
});
