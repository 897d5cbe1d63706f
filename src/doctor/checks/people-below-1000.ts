import { isTrusted } from "../trusted.ts";
import { type Check, look } from "../types.ts";

export const peopleBelow1000: Check = {
  id: "people-below-1000",
  title: "accounts below uid 1000 that somebody can log in to",
  level: "warning",
  why: "uids below 1000 count as system accounts, and the agent may run as one: the proxy would trust them at the agent's address",
  remedy: "give people uids from 1000 on; lock accounts that nobody uses",
  command: "usermod -L -s /usr/sbin/nologin USER",
  explain: [
    "Reads /etc/passwd and /etc/shadow for accounts with a uid from 1 to 999, a login shell and a password that is not locked.",
  ],
  run: (inputs) =>
    look(inputs.accounts, (all) =>
      all
        .filter(
          ({ name, uid, shell, locked }) =>
            uid > 0 &&
            uid < 1000 &&
            locked === false &&
            !/\/(?:nologin|false|sync)$/.test(shell) &&
            !isTrusted(inputs, name),
        )
        .map(({ name, uid, shell }) => ({
          what: `${name} (uid ${uid}) has the shell ${shell} and a usable password`,
        })),
    ),
};
