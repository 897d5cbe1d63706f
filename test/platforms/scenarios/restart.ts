/** kill -9, restart and reload of what serves, under the requests of three users. */

import { until } from "../support/machine.ts";
import { ROLES, roleOf } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { censusOfAll, countCensus } from "./main-job.ts";

export const restart: Scenario = {
  name: "kill -9, restart, reload",
  async run(context) {
    const { machine, requests, holds } = context;
    const times = Math.ceil(requests / 2);
    const asking = censusOfAll(machine, times);
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
    countCensus(context, await asking, "meanwhile");
    // The watch, killed last, is started again after two seconds, and looks at the rules first.
    await until(
      "service status exits 0",
      async () => (await machine.run("imdsproxy service status")).code === 0,
    );
    holds("service status exits 0 afterwards", true);
  },
};
