/** iptables is switched from nft to legacy and back under a running node. */

import { until } from "../support/machine.ts";
import { ROLES, roleOf } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { flushes } from "./flush.ts";

export const backends: Scenario = {
  name: "iptables-legacy",
  async run(context) {
    const { machine, holds } = context;
    for (const backend of ["legacy", "nft"] as const) {
      await machine.ok(
        `for p in iptables ip6tables; do update-alternatives --set $p /usr/sbin/$p-${backend} >/dev/null; done`,
      );
      await until(
        `the rules are in ${backend}`,
        async () => (await machine.run("imdsproxy iptables status")).code === 0,
      );
      const left = await machine.ok(
        `iptables-${backend === "nft" ? "legacy" : "nft"}-save | grep -c IMDSPROXY; true`,
      );
      holds(
        `after a switch to ${backend} the watch has moved the rules, and left none behind`,
        left.trim() === "0",
        left,
      );
      const role = await roleOf(machine, "alice");
      holds(`with ${backend} alice has her role`, role === ROLES.alice, role);
      if (backend === "legacy")
        await flushes(context, ["iptables -F"], "with iptables-legacy and the watch at work");
    }
  },
};
