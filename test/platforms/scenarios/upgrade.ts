/** An upgrade and the way back, under the requests of three users and root. */
import { INSTANCE_ROLE, NEXT_VERSION, PAYLOAD, ROLES, USERS } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { census, countCensus } from "./main-job.ts";

export const upgrade: Scenario = {
  name: "upgrade and downgrade",
  async run(context) {
    const { machine, requests, holds } = context;
    const first = (await machine.ok("imdsproxy --version")).trim();
    const times = Math.ceil(requests / 2);
    const asking = Promise.all([
      ...USERS.map((user) => census(machine, times, ROLES[user], user)),
      census(machine, times, INSTANCE_ROLE),
    ]);
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
