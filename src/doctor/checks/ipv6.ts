import { type Check, look } from "../types.ts";

export const ipv6: Check = {
  id: "ipv6",
  title: "IPv6 without rules",
  level: "open",
  why: "the metadata service answers at [fd00:ec2::254] as well, on instances where that endpoint is enabled",
  remedy: "install ip6tables, or switch IPv6 off",
  command:
    "apt-get install iptables, or: sysctl -w net.ipv6.conf.all.disable_ipv6=1; then imdsproxy iptables apply",
  explain: [
    "Reports a family of addresses that the kernel has and the node's iptables cannot guard. Whether the address answers the user is tried by `direct-access`.",
  ],
  run: ({ firewall }) => look(firewall, ({ unguarded }) => unguarded.map((what) => ({ what }))),
};
