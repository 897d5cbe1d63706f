/** Root sets the machine's clock a day ahead, a day back and right again, while alice attacks. */

import { type Machine, until } from "../support/machine.ts";
import { forgetHammered, hammered, ROLES, roleOf } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";
import { censusOfAll, countCensus } from "./main-job.ts";

/** What a caller is given as credentials: the document of IMDS, or why there is none. */
export interface Given {
  readonly accessKeyId: string | null;
  /** Milliseconds by the machine's wall clock until the end that the document names. */
  readonly leftMs: number;
  readonly status: number;
  readonly text: string;
}

/** Asks for a user's credentials by their role's name, without a token. */
export async function givenTo(machine: Machine, user: keyof typeof ROLES): Promise<Given> {
  const url = `http://169.254.169.254/latest/meta-data/iam/security-credentials/${ROLES[user]}`;
  const { stdout, stderr } = await machine.run(`date +%s%3N; curl -sS -m 60 -w '\\n%{http_code}' ${url}`, {
    as: user,
  });
  const [now = "", ...rest] = stdout.split("\n");
  const status = Number(rest.pop());
  const text = `${rest.join("\n")}${stderr}`.trim();
  const found = /"AccessKeyId"\s*:\s*"([^"]+)"/.exec(text)?.[1] ?? null;
  const ends = /"Expiration"\s*:\s*"([^"]+)"/.exec(text)?.[1] ?? "";
  return { accessKeyId: found, leftMs: Date.parse(ends) - Number(now), status, text: text.slice(0, 300) };
}

async function is(context: Context, when: string): Promise<void> {
  const { machine, holds, count, requests } = context;
  await forgetHammered(machine);
  await until(`alice is served ${when}`, async () => (await roleOf(machine, "alice")) === ROLES.alice);
  let given: Given | undefined;
  await until(`alice has credentials ${when}`, async () => {
    given = await givenTo(machine, "alice");
    return given.accessKeyId !== null;
  });
  const leftMs = given?.leftMs ?? 0;
  holds(
    `${when}: alice has credentials that are not over`,
    leftMs > 0,
    `${Math.round(leftMs / 60_000)} minutes`,
  );
  await machine.ok("iptables -w 10 -D OUTPUT -j IMDSPROXY");
  await until(
    `the watch has put a rule back ${when}`,
    async () => (await machine.run("imdsproxy iptables status")).code === 0,
  );
  holds(`${when}: the watch puts back a rule that is removed`, true);
  const times = Math.ceil(requests / 4);
  const all = await censusOfAll(machine, times);
  countCensus(context, all, when);
  await until("the attacker has tried", async () => (await hammered(machine)).tries > 50);
  const { tries, leaks } = await hammered(machine);
  count(`${when}: alice, asking all the time, has the instance role never`, tries, leaks);
  const active = await machine.run("systemctl is-active imdsproxy imdsproxy-repair");
  holds(`${when}: the proxy and the watch are active`, active.code === 0, active.stdout);
}

export const clock: Scenario = {
  name: "clock",
  async run(context) {
    const { machine } = context;
    for (const [when, change] of [
      ["with the clock a day ahead", "now +1 day"],
      ["with the clock a day back", "now -2 days"],
      ["with the clock right again", "now +1 day"],
    ] as const) {
      await machine.ok(`date -s '${change}'`);
      await is(context, when);
    }
  },
};
