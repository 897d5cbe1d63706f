import { isTrusted } from "../trusted.ts";
import { type Check, look } from "../types.ts";

/** Groups whose members become root, each by what. */
export const ROOT_GROUPS: Readonly<Record<string, string>> = {
  docker: "starts containers as root, with the node's files and network",
  podman: "may use the socket of root's Podman, where a unit gives it to this group",
  lxd: "starts containers as root, with the node's files",
  "incus-admin": "starts containers as root, with the node's files",
  libvirt: "starts virtual machines with the node's disks",
  sudo: "runs commands as root, by sudo's own file on Debian and Ubuntu",
  wheel: "runs commands as root, by sudo's own file on Amazon Linux",
  admin: "runs commands as root, by sudo's own file on Ubuntu",
  disk: "reads and writes the disks, and so every file",
  kmem: "reads the kernel's memory",
  shadow: "reads everybody's password hashes, root's included",
};

export const rootGroups: Check = {
  id: "root-groups",
  title: "members of groups that are as good as root: docker, sudo, wheel, disk, lxd and others",
  level: "open",
  why: "whoever can become root has the instance role, and no proxy can change that",
  remedy: "take the user out of the group; where they are an administrator, name them with --admin",
  command: "gpasswd -d USER GROUP",
  explain: [
    `Asks the account database (getent group) for the members of ${Object.keys(ROOT_GROUPS).join(", ")}, and /etc/passwd for accounts whose own group it is.`,
    "Exempt users and those whom --admin names are left out: they have the instance role anyway.",
  ],
  run: (inputs) =>
    look(inputs.groups, (groups) =>
      groups.flatMap(({ group, members }) => {
        const gives = ROOT_GROUPS[group];
        if (gives === undefined) return [];
        return members
          .filter((member) => !isTrusted(inputs, member))
          .map((member) => ({ what: `${member} is in the group ${group}, which ${gives}` }));
      }),
    ),
};
