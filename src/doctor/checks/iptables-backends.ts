import { type Check, look } from "../types.ts";

export const iptablesBackends: Check = {
  id: "iptables-backends",
  title: "rules in both backends of iptables, nft and legacy",
  level: "warning",
  why: "each backend shows only its own rules, and the kernel decides which redirect comes first",
  remedy: "use one backend for everything on this node, and take the rules of the other away",
  command: "iptables-legacy-save; iptables-nft-save; update-alternatives --display iptables",
  explain: [
    "Reads the rules of the backend that the node's `iptables` is not, and reports rules of ours there, and redirects of the metadata address by others.",
  ],
  run: ({ firewall }) => look(firewall, ({ otherBackend }) => otherBackend.map((what) => ({ what }))),
};
