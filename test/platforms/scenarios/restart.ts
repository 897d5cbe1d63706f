/** kill -9, restart and reload of what serves, under the requests of three users. */
import { INSTANCE_ROLE, ROLES, roleOf, USERS } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { until } from "../support/virtual-machine.ts";
import { census } from "./main-job.ts";

export const restart: Scenario = {
  name: "kill -9, restart, reload",
  async run({ machine, requests, count, holds }) {
    const times = Math.ceil(requests / 2);
    const asking = Promise.all([
      ...USERS.map((user) => census(machine, times, ROLES[user], user)),
      census(machine, times, INSTANCE_ROLE),
    ]);
    for (const what of [
      "systemctl kill -s KILL imdsproxy",
      "systemctl restart imdsproxy",
      "systemctl reload imdsproxy",
      "systemctl kill -s KILL imdsproxy-repair",
    ]) {
      await machine.ok(what);
      await until(
        `alice is served after ${what}`,
        async () => (await roleOf(machine, "alice")) === ROLES.alice,
      );
    }
    const all = await asking;
    for (const [i, user] of USERS.entries()) {
      const { asked, own, instance, other, errors } = all[i] as (typeof all)[0];
      count(
        `${user} meanwhile: no answer is another's or the instance role's`,
        asked,
        instance + other,
        JSON.stringify({ own, errors }),
      );
    }
    const root = all[USERS.length] as (typeof all)[0];
    count(
      "root meanwhile: each answer is the instance role",
      root.asked,
      root.asked - root.instance,
      JSON.stringify(root),
    );
    const status = await machine.run("imdsproxy service status");
    holds("service status exits 0 afterwards", status.code === 0, status.stdout + status.stderr);
  },
};
