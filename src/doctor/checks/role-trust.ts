import { type Check, look } from "../types.ts";

export const roleTrust: Check = {
  id: "role-trust",
  title: "roles that STS refuses: trust policies and permissions, by the error",
  level: "warning",
  why: "users to whom the rules give this role have no credentials",
  remedy:
    "add the statement that is missing to the role's trust policy or to the instance role's permissions",
  command: "imdsproxy iam trust-policy; imdsproxy iam permissions-policy",
  explain: [
    "Takes what the running proxy knows of its last AssumeRole requests. Doctor itself has just asked for the user's credentials, so the role of that user has been tried. STS does not always say whether the trust policy or a permission is missing; the remedy then shows both.",
    "Roles that nobody has asked for yet are not tried: `imdsproxy warm USER` tries them.",
  ],
  run: ({ health }) =>
    look(health, (problems) =>
      problems
        .filter(({ id, lasting }) => id === "sts" && lasting)
        .map(({ what, remedy }) => ({ what, ...(remedy === null ? {} : { remedy }) })),
    ),
};
