import { type Check, type Found, look, type Outcome } from "../types.ts";

export const bridgedContainers: Check = {
  id: "bridged-containers",
  title: "containers on bridges that reach the instance role",
  level: "open",
  why: "their packets have no uid, so no rule by uid applies to them",
  remedy: "set containers: reject, or containers: proxy, in the configuration",
  command: "imdsproxy setup --config FILE, with containers: reject in it",
  explain: [
    "Lists the bridges of this node and how many interfaces are attached, and whom /etc/lxc/lxc-usernet lets attach some. With `containers: leave`, the default, what is on a bridge asks the metadata service directly. A hop limit of 1 keeps it from version 2 of the service on EC2, and not from version 1 or from HyperPod's agent.",
    "A bridge without an interface is a warning: the next container may be attached to it.",
  ],
  run(inputs): readonly Outcome[] {
    const { config, bridges, bridgeUsers } = inputs;
    if (config.kind === "known" && config.value.containers !== "leave") return [];
    const hops = inputs.hopLimit.kind === "known" ? `, and the hop limit is ${inputs.hopLimit.value}` : "";
    return [
      ...look(bridges, (all) =>
        all.map(({ name, ports }): Found => {
          const interfaces = ports === 1 ? "1 interface" : `${ports} interfaces`;
          return {
            what: `the bridge ${name} has ${interfaces}, with containers: leave${hops}`,
            level: ports === 0 ? "warning" : "open",
          };
        }),
      ),
      ...look(bridgeUsers, (users) =>
        users.map((user) => ({
          what: `${user} may attach interfaces to bridges (/etc/lxc/lxc-usernet), with containers: leave`,
        })),
      ),
    ];
  },
};
