import { type Check, look } from "../types.ts";

export const instanceRole: Check = {
  id: "instance-role",
  title: "the instance role in the answers that an ordinary user gets",
  level: "open",
  why: "the proxy must give a user the credentials of the configured role, and never those of the instance role",
  remedy: "check that the redirect leads to the proxy and not to the upstream",
  command: "imdsproxy iptables status; imdsproxy iptables apply",
  explain: [
    "Asks the metadata address for credentials as the user and as root, and compares digests of the access key ids. Then asks as the user for the instance role by its name. No credential is printed or kept.",
  ],
  run: ({ reach }) =>
    look(reach, ({ judged }) =>
      judged
        .filter(({ kind, ok }) => kind === "instance-role" && !ok)
        .map(({ what, found }) => ({ what: `does not hold: ${what} (${found})` })),
    ),
};
