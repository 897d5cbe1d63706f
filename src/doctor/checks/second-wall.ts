import { type Check, look } from "../types.ts";

export const secondWall: Check = {
  id: "second-wall",
  title: "kernels on which a flush of the firewall opens the node",
  level: "warning",
  why: "whenever somebody flushes the firewall, the node is open until the watch has put the rules back",
  remedy: "use a kernel from 4.17 on with CONFIG_IP_MULTIPLE_TABLES",
  command: "uname -r; imdsproxy iptables status",
  explain: [
    "The second wall is made of routing rules by uid, which a flush of iptables or nftables leaves alone. Says where the kernel cannot have them.",
  ],
  run: ({ firewall }) =>
    look(firewall, ({ withoutWall }) => (withoutWall === null ? [] : [{ what: withoutWall }])),
};
