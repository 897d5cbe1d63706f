/** An upgrade and the way back, under the requests of three users and root. */
import { NEXT_VERSION, PAYLOAD } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { censusOfAll, countCensus } from "./main-job.ts";

export const upgrade: Scenario = {
  name: "upgrade and downgrade",
  async run(context) {
    const { machine, requests, holds } = context;
    const first = (await machine.ok("imdsproxy --version")).trim();
    const times = Math.ceil(requests / 2);
    const asking = censusOfAll(machine, times);
    for (const [what, command, version] of [
      ["the next version's setup", `${PAYLOAD}/next setup`, NEXT_VERSION],
      [
        "install.sh of the first version",
        `sh ${PAYLOAD}/release/install.sh --from ${PAYLOAD}/release/`,
        first,
      ],
    ] as const) {
      const ran = await machine.run(command);
      holds(`${what} ends with 0`, ran.code === 0, ran.code === 0 ? "" : ran.stdout + ran.stderr);
      const found = (await machine.ok("imdsproxy --version")).trim();
      holds(`after ${what} that version is there`, found.includes(version), found);
    }
    countCensus(context, await asking, "meanwhile");
  },
};
