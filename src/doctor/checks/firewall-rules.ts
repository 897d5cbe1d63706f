import { type Check, look } from "../types.ts";

export const firewallRules: Check = {
  id: "firewall-rules",
  title: "firewall rules that are missing, changed or not first",
  level: "warning",
  why: "users may reach the instance role, or may no longer reach the proxy",
  remedy: "apply the rules; if they change again, the journal of the watch names who changed them",
  command: "imdsproxy iptables apply; journalctl -u imdsproxy-repair",
  explain: [
    "Compares the rules of iptables, the routing rules of the second wall and the table of limits with what the configuration asks for, as `iptables status` does. Whether access is open is tried by `direct-access`.",
  ],
  run: ({ firewall }) =>
    look(firewall, ({ deviations, wallProblems, limitProblems }) => [
      ...deviations.map((what) => ({ what })),
      ...wallProblems.map((problem) => ({ what: `second wall: ${problem}` })),
      ...limitProblems.map((problem) => ({ what: `limits of connections: ${problem}` })),
    ]),
};
