import { type Check, look } from "../types.ts";

export const hostNetwork: Check = {
  id: "host-network",
  title: "containers in the node's network that do not run as root",
  level: "warning",
  why: "the kernel sees them as this node's user with the same uid: they get that user's role, or are refused",
  remedy:
    "give the container a uid of its own with a rule, or name the uid under exempt where it is a daemon of the node's",
  command: "imdsproxy explain UID",
  explain: [
    "Looks for processes in the node's network namespace whose mount namespace is not the node's and whose cgroup is a container's. HyperPod's collector of metrics is such a container. Those that run as root have the instance role, as root has.",
  ],
  run: ({ processes, exempt }) =>
    look(processes, (all) => {
      const trusted = exempt.kind === "known" ? exempt.value : [0];
      const containers = new Map<string, { uid: number; name: string; pid: number; cgroup: string }>();
      for (const { hostNetworkContainer, uid, name, pid, cgroup } of all) {
        if (!hostNetworkContainer || uid === 0 || trusted.includes(uid)) continue;
        const key = `${cgroup} ${uid}`;
        if (!containers.has(key)) containers.set(key, { uid, name, pid, cgroup });
      }
      return [...containers.values()].map(({ uid, name, pid, cgroup }) => ({
        what: `a container in the node's network runs as uid ${uid} (pid ${pid}, ${name}, ${cgroup})`,
      }));
    }),
};
