/** Reboots with an attacker from sysinit.target on: an ordinary one, one on a full disk (at work first), and one whose rules cannot come. */

import { until } from "../support/machine.ts";
import { forgetHammered, hammered, ROLES, roleOf } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";
import { emptyDisk, fillDisk, workOnFullDisk } from "./disk.ts";

async function bootUnderAttack(
  { machine, count, holds }: Context,
  what: string,
  serves: boolean,
): Promise<void> {
  await forgetHammered(machine);
  await machine.reboot();
  await until("the attacker has tried", async () => (await hammered(machine)).tries > 100);
  if (serves) {
    await until("alice is served", async () => (await roleOf(machine, "alice")) === ROLES.alice);
    holds(`${what}: alice has her role in the end`, true);
  } else {
    await machine.booted();
    const role = await roleOf(machine, "alice");
    holds(`${what}: alice is refused`, !/Role/.test(role), role);
  }
  const rootRole = await machine.run(
    "curl -sS -m 20 http://169.254.0.2:9081/latest/meta-data/iam/security-credentials/",
  );
  holds(
    `${what}: root has the instance role`,
    rootRole.code === 0 && /Instance/.test(rootRole.stdout),
    rootRole.stderr,
  );
  const { tries, leaks } = await hammered(machine);
  count(`${what}: alice, asking from sysinit.target on, has the instance role never`, tries, leaks);
  const closed = await machine.ok(
    "systemctl show -p Result,ExecMainStatus imdsproxy-closed.service; systemctl --failed --no-legend --plain",
  );
  holds(
    `${what}: imdsproxy-closed.service did its work`,
    /Result=success/.test(closed) && /ExecMainStatus=0/.test(closed),
    closed,
  );
}

export const boot: Scenario = {
  name: "boot",
  async run(context) {
    const { machine, holds } = context;
    await bootUnderAttack(context, "a reboot", true);
    await fillDisk(context);
    await workOnFullDisk(context);
    await bootUnderAttack(context, "a reboot with a full disk", true);
    await emptyDisk(machine);
    await machine.ok("mv /usr/local/bin/imdsproxy /root/away");
    await bootUnderAttack(context, "a reboot without the executable", false);
    await machine.ok(
      "mv /root/away /usr/local/bin/imdsproxy; systemctl restart imdsproxy-iptables; systemctl restart imdsproxy-repair imdsproxy",
    );
    await until("alice is served", async () => (await roleOf(machine, "alice")) === ROLES.alice);
    holds("with the executable back, the node opens again", true);
  },
};
