import { type Check, look } from "../types.ts";

export const proxyHealth: Check = {
  id: "proxy-health",
  title: "what keeps the running proxy from serving",
  level: "warning",
  why: "users have no credentials, or will have none after a restart",
  remedy: "do what the finding says",
  command: "imdsproxy service status",
  explain: [
    "Asks the running proxy for its own health, as `service status` does. Denials of STS are under `role-trust`, the clock is under `clock`.",
  ],
  run: ({ health }) =>
    look(health, (problems) =>
      problems
        .filter(({ id, lasting }) => id !== "clock" && !(id === "sts" && lasting))
        .map(({ id, what, remedy }) => ({
          what: `${id}: ${what}`,
          ...(remedy === null ? {} : { remedy }),
        })),
    ),
};
