/** install.sh and setup on a node whose users have had the instance role until then. */

import { until } from "../support/machine.ts";
import { CONFIGURATION, forgetHammered, hammered, PAYLOAD } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";

/** All is well by both commands that say so. */
export async function statusesExitZero({ machine, holds }: Context): Promise<void> {
  for (const command of ["service status", "iptables status"]) {
    const status = await machine.run(`imdsproxy ${command}`);
    holds(
      `imdsproxy ${command} exits 0`,
      status.code === 0,
      status.code === 0 ? "" : status.stdout + status.stderr,
    );
  }
}

export const install: Scenario = {
  name: "install",
  async run(context) {
    const { machine, holds, count } = context;
    await until("the attacker works", async () => (await hammered(machine)).leaks > 0);
    holds("before the installation alice has the instance role (the attack works)", true);
    await machine.write("/root/config.yaml", CONFIGURATION);
    const began = Date.now();
    const ran = await machine.run(
      `sh ${PAYLOAD}/release/install.sh --from ${PAYLOAD}/release/ --config /root/config.yaml`,
    );
    const seconds = Math.round((Date.now() - began) / 1000);
    holds(
      "install.sh and setup end with 0",
      ran.code === 0,
      ran.code === 0 ? `${seconds} s` : `${ran.stdout}\n${ran.stderr}`,
    );
    await forgetHammered(machine);
    await until("the attacker has tried", async () => (await hammered(machine)).tries > 50);
    const { tries, leaks } = await hammered(machine);
    count("from then on alice does not have it", tries, leaks);
    const wall = await machine.ok("ip rule; ip -6 rule");
    holds(
      "the routing rules of the second wall stand, in both families",
      wall.split("1692541").length > 2,
      wall.split("1692541").length > 2 ? "" : wall,
    );
    const table = await machine.run("nft list table inet imdsproxy_limits");
    holds("the table of limits stands in nf_tables, and this nft lists it", table.code === 0, table.stderr);
    const warnings = ran.stderr.split("\n").filter((line) => /warn/i.test(line));
    holds("setup warns of nothing", warnings.length === 0, warnings.join("\n"));
    await statusesExitZero(context);
  },
};
