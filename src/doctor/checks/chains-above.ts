import { type Check, look } from "../types.ts";

export const chainsAbove: Check = {
  id: "chains-above",
  title: "rules of others that stand before ours, such as PARALLELCLUSTER_IMDS",
  level: "warning",
  why: "packets that they redirect or refuse never reach our rules",
  remedy: "let the watch put ours first; let a chain of ParallelCluster's pass the account imdsproxy",
  command: "imdsproxy iptables apply; iptables-save | grep -n -e IMDSPROXY -e PARALLELCLUSTER",
  explain: [
    "Looks for rules before our jump in nat OUTPUT and filter OUTPUT of both families that could concern the metadata address or the agent, and for ParallelCluster's chain, which refuses the metadata service to the proxy's own account.",
  ],
  run: ({ firewall }) =>
    look(firewall, ({ above, parallelCluster }) => [
      ...above.map((what) => ({ what })),
      ...(parallelCluster === null ? [] : [{ what: parallelCluster }]),
    ]),
};
