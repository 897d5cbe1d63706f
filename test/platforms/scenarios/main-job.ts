/** Three users and root ask at the same time: everybody has their own role and nobody else's. */
import { INSTANCE_ROLE, PAYLOAD, ROLES, USERS } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import type { VirtualMachine } from "../support/virtual-machine.ts";

export interface Census {
  readonly asked: number;
  readonly own: number;
  readonly instance: number;
  readonly other: number;
  readonly errors: Readonly<Record<string, number>>;
}

/** What one caller's so many tries came to. */
export async function census(
  machine: VirtualMachine,
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

export const mainJob: Scenario = {
  name: "main job",
  async run({ machine, requests, count, holds }) {
    for (const [family, address, times] of [
      ["IPv4", "169.254.169.254", requests],
      ["IPv6", "fd00:ec2::254", Math.ceil(requests / 10)],
    ] as const) {
      const [root, ...users] = await Promise.all([
        // The agent has no IPv6 address, so root has none either.
        family === "IPv4" ? census(machine, times, INSTANCE_ROLE) : null,
        ...USERS.map((user) => census(machine, times, ROLES[user], user, address)),
      ]);
      for (const [i, user] of USERS.entries()) {
        const { asked, own, instance, other, errors } = users[i] as Census;
        count(
          `${user} by ${family}: each answer is ${user}'s own role, none another's, none the instance role's`,
          asked,
          asked - own + instance + other,
          JSON.stringify({ own, instance, other, errors }),
        );
      }
      if (root !== null)
        count(
          "root by IPv4: each answer is the instance role",
          root.asked,
          root.asked - root.instance,
          JSON.stringify(root),
        );
    }
    const names = (await machine.ok("cat /var/lib/stand-in/sts.log"))
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as { parameters: Record<string, string> })
      .map(
        ({ parameters }) => `${parameters["RoleArn"]?.split("/").at(-1)} ${parameters["RoleSessionName"]}`,
      );
    const expected = USERS.map((user) => `${ROLES[user]} ${user}@node`);
    const wrong = [...new Set(names)].filter(
      (name) => !expected.includes(name) && !/^ImdsProxyTestRole nobody@/.test(name),
    );
    holds("STS was asked for these users' sessions and no others", wrong.length === 0, wrong.join(", "));
  },
};
