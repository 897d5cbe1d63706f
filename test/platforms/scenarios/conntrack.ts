/**
 * The kernel's table of tracked connections, really full. It is the whole machine's (net.netfilter.nf_conntrack_max), so this needs a
 * kernel of its own, and no systemd: alice fills it with connections to herself and to a second node of hers, and bob and root want to be served.
 */

import { type Machine, until } from "../support/machine.ts";
import { CONFIGURATION } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { served, serving, surround } from "./kernel.ts";

/** Small, so that an emulated machine fills it in seconds. */
const MOST = 4_096;
const SECONDS = 20;
const PROGRAMS = "/opt/payload/programs";

interface Victim {
  readonly rounds: number;
  readonly requests: number;
  readonly maxMs: number;
  readonly failures: Readonly<Record<string, number>>;
}

const failed = ({ failures }: Victim): number => Object.values(failures).reduce((sum, one) => sum + one, 0);

async function ask(machine: Machine, as: string | undefined, seconds: number): Promise<Victim> {
  const asked = await machine.ok(
    `python3 ${PROGRAMS}/victim.py ${seconds} 50`,
    as === undefined ? {} : { as },
  );
  return JSON.parse(asked) as Victim;
}

const tracked = async (machine: Machine): Promise<number> =>
  Number(await machine.ok("cat /proc/sys/net/netfilter/nf_conntrack_count"));

async function configure(machine: Machine, limit: "auto" | "null"): Promise<void> {
  const text = `${CONFIGURATION}limits: { trackedConnectionsPerUser: ${limit} }\n`;
  await machine.write("/etc/imdsproxy/config.yaml", text);
  await machine.ok("imdsproxy iptables apply && conntrack -F 2>/dev/null");
}

/** Alice attacks, and bob and root ask as soon as `begun` says so. */
async function attacked(machine: Machine, kind: string, begun: (count: number) => boolean) {
  await machine.ok("conntrack -F 2>/dev/null");
  let ended = false;
  const alice = machine.run(`exec python3 ${PROGRAMS}/tracked.py ${kind}`, { as: "alice" }).finally(() => {
    ended = true;
  });
  // Where she does not come to so much in her time, the figures tell it.
  await until("alice has filled what she can", async () => begun(await tracked(machine)) || ended);
  const [bob, root] = await Promise.all([
    ask(machine, "bob", SECONDS / 2),
    ask(machine, undefined, SECONDS / 2),
  ]);
  const { begun: made, refused, most } = JSON.parse((await alice).stdout);
  return { bob, root, found: JSON.stringify({ made, refused, most, bobMs: bob.maxMs, rootMs: root.maxMs }) };
}

export const conntrack: Scenario = {
  name: "a full table of tracked connections",
  async run(context) {
    const { machine, holds, count } = context;
    await surround(context);
    // Of whoever starts the commands: the kernel gives the first process 4,096 descriptors, and each connection that alice holds needs two.
    await machine.ok("prlimit --pid $PPID --nofile=65536:65536");
    await machine.ok("imdsproxy iptables apply");
    await serving(context);
    await served(context, "at first");
    const setting = "net.netfilter.nf_conntrack_max";
    const before = (await machine.ok(`sysctl -n ${setting}`)).trim();
    await machine.ok(
      `sysctl -qw ${setting}=${MOST}
       ip netns add hers && ip link add hers0 type veth peer name node0 netns hers
       ip addr add 10.99.0.254/24 dev hers0 && ip link set hers0 up
       ip -n hers addr add 10.99.0.1/24 dev node0 && ip -n hers link set node0 up && ip -n hers link set lo up`,
    );
    try {
      await configure(machine, "null");
      // Connections that are open: what is not "assured" the kernel drops to make room, and pairs take it a while to be.
      for (const kind of [`held ${4 * SECONDS}`]) {
        const { bob, root, found } = await attacked(machine, kind, (entries) => entries >= MOST);
        holds(
          `without limits, ${kind}: bob and root are refused (the attack works)`,
          failed(bob) > 0 && failed(root) > 0,
          `${found} ${JSON.stringify([bob.failures, root.failures])}`,
        );
      }
      await configure(machine, "auto");
      for (const kind of [
        `pairs ${SECONDS}`,
        `held ${SECONDS}`,
        `datagrams ${SECONDS} 10.99.0.`,
        `closed ${SECONDS}`,
      ]) {
        // Her part of so small a table is a quarter.
        const { bob, root, found } = await attacked(machine, kind, (entries) => entries >= MOST / 4);
        count(`with limits, ${kind}: bob is served`, bob.requests, failed(bob), found);
        count(
          `with limits, ${kind}: root is served`,
          root.requests,
          failed(root),
          JSON.stringify(root.failures),
        );
      }
      const { code, stdout } = await machine.run("imdsproxy iptables status");
      holds("status says that all is as it should be", code === 0, stdout);
    } finally {
      await machine.ok(`ip netns del hers; sysctl -qw ${setting}=${before}`);
    }
  },
};
