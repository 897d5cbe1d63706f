/**
 * What the kernel does for the proxy, without systemd, which takes an emulated machine longer than all of this: the rules, the second
 * wall, who a caller is, and flushes. The proxy has the account and the capabilities that its unit gives it.
 */
import { STS } from "../../boot/support/node.ts";
import { until } from "../support/machine.ts";
import { CONFIGURATION, INSTANCE_ROLE, PAYLOAD, ROLES, roleOf, USERS } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";
import { flushes, writeOlderRules } from "./flush.ts";
import { census, censusOfAll, countCensus } from "./main-job.ts";

export const EXECUTABLE = "/usr/local/bin/imdsproxy";
export const PROXY =
  "setpriv --reuid=imdsproxy --regid=imdsproxy --clear-groups --inh-caps=-all,+net_admin,+net_bind_service " +
  "--ambient-caps=-all,+net_admin,+net_bind_service --bounding-set=-all,+net_admin,+net_bind_service";

/** Starts a program that goes on, with its output in a file below /run. */
const started = (name: string, command: string): string =>
  `setsid ${command} >/run/${name}.log 2>&1 </dev/null & echo $! >/run/${name}.pid`;

/**
 * The network, the agent and STS.
 *
 * @param sessionSeconds the longest life of a session of STS's; null for what is asked for.
 */
export async function surround({ machine }: Context, sessionSeconds: number | null = null): Promise<void> {
  const life = sessionSeconds === null ? "" : `env STAND_IN_SESSION_SECONDS=${sessionSeconds} `;
  await machine.ok(
    `mkdir -p /dev/shm ${PAYLOAD}; mount -t tmpfs tmpfs /dev/shm; chmod 1777 /dev/shm; mount -o ro -t ext4 /dev/vdb ${PAYLOAD}
     ip link set lo up; ip link add eth0 type veth peer name far0; ip link set eth0 up; ip link set far0 up
     ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1; ip addr add 169.254.0.2/32 dev lo
     useradd --system --no-create-home --shell /usr/sbin/nologin imdsproxy; mkdir -p /var/lib/imdsproxy; chown imdsproxy /var/lib/imdsproxy
     install -m 755 ${PAYLOAD}/release/imdsproxy-linux-*64 ${EXECUTABLE}
     ${started("agent", `${PAYLOAD}/stand-in imds 169.254.0.2:9081`)}
     ${started("sts", `${life}${PAYLOAD}/stand-in sts ${STS.replace("http://", "")}`)}`,
  );
  await machine.write("/etc/imdsproxy/config.yaml", `${CONFIGURATION}metrics: null\n`);
  await machine.ok(
    `until curl -s -m 5 -o /dev/null ${STS} && curl -s -m 5 -o /dev/null http://169.254.0.2:9081/; do sleep 0.2; done`,
  );
}

/** Starts the proxy. */
export const serving = ({ machine }: Context) => machine.ok(started("serve", `${PROXY} ${EXECUTABLE} serve`));
export const served = ({ machine }: Context, when: string) =>
  until(`alice is served ${when}`, async () => (await roleOf(machine, "alice")) === ROLES.alice);

export const kernel: Scenario = {
  name: "kernel",
  async run(context) {
    const { machine, holds, requests } = context;
    await surround(context);
    const before = await machine.ok("iptables -t nat -S >/dev/null; lsmod | cut -d' ' -f1 | tr '\\n' ' '");
    const applied = await machine.run("imdsproxy iptables apply");
    holds("apply ends with 0", applied.code === 0, applied.code === 0 ? "" : applied.stdout + applied.stderr);
    const wall = await machine.ok("ip rule; ip -6 rule");
    const rules = wall.split("1692541").length - 1;
    holds("the second wall stands, in both families", rules >= 3, rules >= 3 ? "" : wall);
    const table = await machine.run("nft list table inet imdsproxy_limits");
    holds("the table of limits stands, and this nft lists it", table.code === 0, table.stderr);
    await serving(context);
    await served(context, "at first");
    const after = await machine.ok("lsmod | cut -d' ' -f1 | tr '\\n' ' '");
    const came = after.split(" ").filter((one) => one !== "" && !before.split(" ").includes(one));
    holds(
      "modules that were not loaded (sock_diag's and conntrack's among them) are there once they are asked for",
      came.length > 0,
      came.join(" "),
    );
    const status = await machine.run("imdsproxy iptables status");
    holds(
      "iptables status exits 0",
      status.code === 0,
      status.code === 0 ? "" : status.stdout + status.stderr,
    );
    const all = await censusOfAll(machine, requests);
    countCensus(context, all, "by IPv4", { strict: true });
    const six = await Promise.all(
      USERS.map((user) => census(machine, Math.ceil(requests / 5), ROLES[user], user, "fd00:ec2::254")),
    );
    countCensus(context, six, "by IPv6", { strict: true });
    await writeOlderRules(machine);
    await machine.ok(started("watch", `${EXECUTABLE} iptables watch`));
    await flushes(context, ["iptables -F", "nft flush ruleset"], "with the watch at work");
    await until(
      "the watch has put everything back",
      async () => (await machine.run("imdsproxy iptables status")).code === 0,
    );
    holds("the watch has put everything back", true);
    await machine.ok("kill -9 $(cat /run/watch.pid)");
    await flushes(context, ["nft flush ruleset"], "with the watch killed");
    await machine.ok("imdsproxy iptables apply");
    await machine.ok("kill -9 $(cat /run/serve.pid)");
    const refused = await roleOf(machine, "alice");
    holds("with the proxy killed alice is refused", !/Role/.test(refused), refused);
    const root = await roleOf(machine);
    holds("and root has the instance role", root === INSTANCE_ROLE, root);
    await serving(context);
    await served(context, "again");
    holds("started again, it serves", true);
    const removed = await machine.run("imdsproxy iptables remove");
    const left = await machine.ok(
      "{ iptables-save; ip6tables-save; } | grep -i imdsproxy; { ip rule; ip -6 rule; } | grep 169254; nft list tables | grep imdsproxy; true",
    );
    holds("remove leaves nothing", removed.code === 0 && left === "", left + removed.stderr);
  },
};
