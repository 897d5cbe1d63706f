import { isTrusted } from "../trusted.ts";
import { type Check, look } from "../types.ts";

export const sudoers: Check = {
  id: "sudoers",
  title: "users whom sudo lets run commands as root",
  level: "open",
  why: "whoever can become root has the instance role, and no proxy can change that",
  remedy: "take the rule out of /etc/sudoers.d; where they are an administrator, name them with --admin",
  command: "sudo -l -U USER; visudo",
  explain: [
    "Asks sudo itself (`sudo -n -l -U USER`) for each account with a login shell, and for users with running processes. A rule for some commands without a password is a warning: you have to judge whether one of them gives a shell (GTFOBins lists such programs).",
    "Users whom sudo lets run commands as root only after their password, because of a group, are under `root-groups`.",
  ],
  run: (inputs) =>
    look(inputs.sudo, (grants) =>
      grants
        .filter(({ user }) => !isTrusted(inputs, user))
        .map(({ user, all, passwordless }) => ({
          what: `sudo lets ${user} run ${all ? "every command" : "some commands"} as root${passwordless ? " without a password" : ""}`,
          level: all ? ("open" as const) : ("warning" as const),
        })),
    ),
};
