import { type Check, look } from "../types.ts";

export const directAccess: Check = {
  id: "direct-access",
  title: "ways past the proxy to the metadata service or the agent",
  level: "open",
  why: "whoever gets an answer there has the credentials of the instance role",
  remedy: "apply the firewall rules, and keep the watch running",
  command: "imdsproxy iptables apply; imdsproxy service status",
  explain: [
    "Connects as the user to every address that could give the instance role without the redirect: the upstream, the metadata addresses of both families, HyperPod's agent, and the agent's port at every address of this node. It is the probe that `iptables check-direct` and `setup` use.",
    "An address that accepts the connection counts as open, even where it sends nothing.",
  ],
  run: ({ reach }) =>
    look(reach, ({ user }) =>
      user.direct.filter(({ result }) => result === "open").map(({ detail }) => ({ what: detail })),
    ),
};
