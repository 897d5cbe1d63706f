import { type Check, look } from "../types.ts";

export const directAccess: Check = {
  id: "direct-access",
  title: "ways past the proxy to the metadata service or the agent",
  level: "open",
  why: "who is answered there has the credentials of the instance role",
  remedy: "bring the firewall rules, and let the watch keep them",
  command: "imdsproxy iptables apply; imdsproxy service status",
  explain: [
    "Connects as the user to every address where the instance role can be had without the redirect: the upstream, the metadata addresses of both families, HyperPod's agent, and the agent's port at every address of this node. It is the probe that `iptables check-direct` and `setup` use.",
    "An address that takes the connection counts as open, also where it says nothing.",
  ],
  run: ({ reach }) =>
    look(reach, ({ user }) =>
      user.direct.filter(({ result }) => result === "open").map(({ detail }) => ({ what: detail })),
    ),
};
