/**
 * A kernel whose modules for tracked connections, then those for looking sockets up, are not on the disk: what is said, what stays,
 * and that nobody gets the instance role where the rules are in place.
 */
import { INSTANCE_ROLE, ROLES, roleOf } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";
import { EXECUTABLE, PROXY, surround } from "./kernel.ts";

const AWAY = "/root/modules";
const take = (names: string) =>
  `mkdir -p ${AWAY}; cd /lib/modules/$(uname -r) && for one in $(find . ${names}); do mkdir -p ${AWAY}/$(dirname $one) && mv $one ${AWAY}/$one; done; depmod`;
const GIVE_BACK = `cp -a ${AWAY}/. /lib/modules/$(uname -r)/ && rm -r ${AWAY} && depmod`;
const AGENT = "curl -sS -m 20 http://169.254.0.2:9081/latest/meta-data/iam/security-credentials/";

/** The instance role is root's alone, by the metadata address and by the agent's. */
async function isClosed({ machine, holds }: Context, when: string): Promise<void> {
  const alice = `${await roleOf(machine, "alice")} ${(await machine.run(AGENT, { as: "alice" })).stdout}`;
  holds(`${when}: alice does not have the instance role`, !alice.includes(INSTANCE_ROLE), alice);
  const root = (await machine.run(AGENT)).stdout;
  holds(`${when}: root reaches the agent`, root.includes(INSTANCE_ROLE), root);
}

/** How a command fails that must fail, with its reason. */
async function fails(
  { machine, holds }: Context,
  what: string,
  command: string,
  says: RegExp,
): Promise<void> {
  const { code, stdout, stderr } = await machine.run(`timeout 120 ${command}`);
  const said = `${stdout}${stderr}`.trim();
  holds(what, code !== 0 && code !== 124 && says.test(said), `exit status ${code}: ${said}`);
}

export const modules: Scenario = {
  name: "modules that are absent",
  async run(context) {
    const { machine, holds } = context;
    await surround(context);
    await machine.ok(take("-name 'nf_conntrack*.ko*'"));
    await fails(
      context,
      "without nf_conntrack: iptables apply fails, and names the kernel or the command that failed",
      "imdsproxy iptables apply",
      /nat|conntrack|kernel/,
    );
    // Without the redirect nobody of the node's users has a way, so the walls are not brought: what was before stays, as the exit
    // status says. An installed node is closed then, since its boot opens it only when apply has succeeded.
    const left = await machine.ok(
      "{ ip rule; ip -6 rule; } | grep 169254; nft list tables | grep imdsproxy; true",
    );
    holds("without nf_conntrack: an apply that fails leaves nothing of its own", left.trim() === "", left);
    await machine.ok(GIVE_BACK);
    await machine.ok(take("-name 'inet_diag.ko*' -o -name 'tcp_diag.ko*'"));
    await fails(
      context,
      "without inet_diag: serve does not start, and names it",
      `${PROXY} ${EXECUTABLE} serve`,
      /inet_diag/,
    );
    const applied = await machine.run("imdsproxy iptables apply");
    holds(
      "without inet_diag: iptables apply says so or does without",
      true,
      `exit status ${applied.code}: ${applied.stdout}${applied.stderr}`,
    );
    await isClosed(context, "without inet_diag");
    await machine.ok(GIVE_BACK);
    const again = await machine.run("imdsproxy iptables apply");
    holds("with all modules back, apply ends with 0", again.code === 0, again.stdout + again.stderr);
    await machine.ok(`setsid ${PROXY} ${EXECUTABLE} serve >/run/serve.log 2>&1 </dev/null & sleep 10`);
    const role = await roleOf(machine, "alice");
    holds("and alice has her role", role === ROLES.alice, role);
  },
};
