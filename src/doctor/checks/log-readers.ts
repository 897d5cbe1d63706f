import { isDaemon, isTrusted } from "../trusted.ts";
import { type Check, look } from "../types.ts";

export const LOG_GROUPS: readonly string[] = ["adm"];

export const logReaders: Check = {
  id: "log-readers",
  title: "members of adm, who read the node's logs",
  level: "warning",
  why: "the proxy writes no secret to a log, but logs of other programs (cloud-init, agents) may hold some",
  remedy: "take the user out of the group; where they are an administrator, name them with --admin",
  command: "gpasswd -d USER adm",
  explain: [
    "Asks the account database for the members of adm. Daemons (a uid below 1000 without a login shell) are left out, such as syslog.",
  ],
  run: (inputs) =>
    look(inputs.groups, (groups) =>
      groups
        .filter(({ group }) => LOG_GROUPS.includes(group))
        .flatMap(({ group, members }) =>
          members
            .filter((member) => !isTrusted(inputs, member) && !isDaemon(inputs, member))
            .map((member) => ({ what: `${member} is in the group ${group} and reads the node's logs` })),
        ),
    ),
};
