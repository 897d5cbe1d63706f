/** Three users and root ask at the same time: everybody has their own role and nobody else's. */

import { type Machine, until } from "../support/machine.ts";
import { INSTANCE_ROLE, PAYLOAD, ROLES, USERS } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";

export interface Census {
  readonly asked: number;
  readonly own: number;
  readonly instance: number;
  readonly other: number;
  readonly errors: Readonly<Record<string, number>>;
}

/** What one caller's so many tries came to. */
export async function census(
  machine: Machine,
  times: number,
  role: string,
  as?: string,
  address = "169.254.169.254",
): Promise<Census> {
  const options = { limitMs: 3_600_000, ...(as === undefined ? {} : { as }) };
  return JSON.parse(
    await machine.ok(`python3 ${PAYLOAD}/programs/census.py ${times} ${role} ${address}`, options),
  );
}

/** What each of the three users is given and what root is, all at once, by IPv4. */
export const censusOfAll = (machine: Machine, times: number): Promise<Census[]> =>
  Promise.all([
    ...USERS.map((user) => census(machine, times, ROLES[user], user)),
    census(machine, times, INSTANCE_ROLE),
  ]);

/**
 * Counts what the three users and root got, in this order: each answer that came is the caller's own. A try without an answer is told
 * in the figures; where nothing restarts, it counts as well.
 *
 * @param strict whether a try without an answer is a failure.
 */
export function countCensus(
  { count }: Context,
  all: readonly Census[],
  when: string,
  { strict = false } = {},
): void {
  for (const [i, user] of USERS.entries()) {
    const { asked, own, instance, other, errors } = all[i] as Census;
    count(
      `${user} ${when}: each answer is ${user}'s own role, none another's, none the instance role's`,
      asked,
      instance + other + (strict ? asked - own : 0),
      JSON.stringify({ own, instance, other, errors }),
    );
  }
  const root = all[USERS.length];
  if (root !== undefined)
    count(
      `root ${when}: each answer is the instance role`,
      root.asked,
      root.asked - root.instance,
      JSON.stringify(root),
    );
}

export const mainJob: Scenario = {
  name: "main job",
  async run(context) {
    const { machine, requests, holds } = context;
    // Where the machine is busy, the first answer of all may be that a session comes later (503).
    for (const user of USERS)
      await until(
        `${user} has a session`,
        async () => (await census(machine, 1, ROLES[user], user)).own === 1,
      );
    for (const [family, address, times] of [
      ["IPv4", "169.254.169.254", requests],
      ["IPv6", "fd00:ec2::254", Math.ceil(requests / 10)],
    ] as const) {
      const all = await Promise.all([
        ...USERS.map((user) => census(machine, times, ROLES[user], user, address)),
        // The agent has no IPv6 address, so root has none either.
        ...(family === "IPv4" ? [census(machine, times, INSTANCE_ROLE)] : []),
      ]);
      countCensus(context, all, `by ${family}`, { strict: true });
    }
    const names = (await machine.ok("cat /var/lib/stand-in/sts.log"))
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => (JSON.parse(line) as { parameters: Record<string, string> }).parameters)
      .filter(({ RoleArn }) => RoleArn !== undefined)
      .map(({ RoleArn = "", RoleSessionName }) => `${RoleArn.split("/").at(-1)} ${RoleSessionName}`);
    const expected = USERS.map((user) => `${ROLES[user]} ${user}@node`);
    // Besides, those whom nothing but the default is for: setup's ordinary account, the check at the start, and root who asks for the status.
    const isDefault = /^ImdsProxyTestRole (?:nobody|imdsproxy-check|root)@node$/;
    const wrong = [...new Set(names)].filter((name) => !expected.includes(name) && !isDefault.test(name));
    holds("STS was asked for these users' sessions and no others", wrong.length === 0, wrong.join(", "));
  },
};
