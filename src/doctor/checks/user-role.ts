import { type Check, look } from "../types.ts";

export const userRole: Check = {
  id: "user-role",
  title: "whether root and an ordinary user get the roles that the configuration gives them",
  level: "warning",
  why: "programs of users, or root's own agents, find no credentials or others than they should",
  remedy: "look at the proxy's own health, and at the rule that decides for the user",
  command: "imdsproxy service status; imdsproxy explain USER",
  explain: [
    "The same questions as at the end of `setup`: root keeps the instance role; the user gets the role that the rules give, or is refused where they refuse.",
  ],
  run: ({ reach }) =>
    look(reach, ({ judged }) =>
      judged
        .filter(({ kind, ok }) => kind === "role" && !ok)
        .map(({ what, found }) => ({ what: `does not hold: ${what} (${found})` })),
    ),
};
