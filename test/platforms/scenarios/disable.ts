/** disable and uninstall give the node back as it was. */

import { until } from "../support/machine.ts";
import { INSTANCE_ROLE, roleOf } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";

export const disable: Scenario = {
  name: "disable and uninstall",
  async run({ machine, holds }) {
    const disabled = await machine.run("imdsproxy service disable");
    holds("service disable ends with 0", disabled.code === 0, disabled.stdout + disabled.stderr);
    await until(
      "alice has the instance role again",
      async () => (await roleOf(machine, "alice")) === INSTANCE_ROLE,
    );
    const removed = await machine.run("imdsproxy service uninstall");
    holds("service uninstall ends with 0", removed.code === 0, removed.stdout + removed.stderr);
    const left = await machine.ok(
      "{ iptables-save; ip6tables-save; } | grep -i imdsproxy; ip rule | grep -E '169254|prohibit'; ip -6 rule | grep -E '169254|prohibit'; nft list tables | grep imdsproxy; ls /etc/imdsproxy /usr/local/bin/imdsproxy 2>/dev/null; systemctl list-unit-files --no-legend | grep imdsproxy; getent passwd imdsproxy; true",
    );
    holds("nothing of ours is left", left === "", left);
  },
};
