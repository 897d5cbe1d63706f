/** Somebody flushes the firewall, with the watch at work and without it, while alice tries each of her ways. */

import { type Machine, until } from "../support/machine.ts";
import { INSTANCE_ROLE, PAYLOAD } from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";

const ENTRY =
  "OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.0.2:9081";
/** The agent puts its own entry back, which is the worst case. */
const AGAIN = `iptables -w 10 -t nat -C ${ENTRY} 2>/dev/null || iptables -w 10 -t nat -A ${ENTRY}`;

const KINDS: Readonly<Record<string, string>> = {
  "iptables -F": "iptables -w 10 -F; iptables -w 10 -t nat -F",
  "nft flush ruleset": "nft flush ruleset",
  "iptables-restore of an older file": "iptables-restore -w 10 </run/before.rules",
};

interface Thefts {
  readonly asked: number;
  readonly leaks: number;
  readonly outcomes: Readonly<Record<string, number>>;
  readonly ways: Readonly<Record<string, number>>;
}

/** Lets alice try while something is done; says what it came to. */
async function besieged({ machine }: Context, what: () => Promise<void>): Promise<Thefts> {
  await machine.ok("rm -rf /dev/shm/siege; mkdir -m 777 /dev/shm/siege");
  const thief = machine.ok(
    `ADDRESSES=127.0.0.1,10.0.0.2,169.254.0.2,::1 DEVICES=lo,eth0 python3 ${PAYLOAD}/programs/thief.py ` +
      `${INSTANCE_ROLE} /dev/shm/siege/stop /dev/shm/siege/report users`,
    { as: "alice", limitMs: 3_600_000 },
  );
  const rounds = async () => Number((await machine.run("tr -dc . </dev/shm/siege/report | wc -c")).stdout);
  await until("alice has tried each way", async () => (await rounds()) >= 1);
  await what();
  const before = await rounds();
  await until("alice has tried each way once more", async () => (await rounds()) > before + 1);
  await machine.ok("touch /dev/shm/siege/stop");
  return JSON.parse(await thief) as Thefts;
}

/** Flushes in each way, under siege. */
export async function flushes(context: Context, kinds: readonly string[], when: string): Promise<void> {
  const { machine, count, flushes: times } = context;
  for (const kind of kinds) {
    const thefts = await besieged(context, async () => {
      await machine.ok(
        `i=0; while [ $i -lt ${times} ]; do ${KINDS[kind]}; ${AGAIN}; sleep 0.$((i % 5)); i=$((i+1)); done`,
      );
    });
    count(
      `${kind}, ${times} times, ${when}: alice, asking in every way, has the instance role never`,
      thefts.asked,
      thefts.leaks,
      JSON.stringify(thefts.leaks > 0 ? thefts : thefts.outcomes),
    );
  }
}

/** The file of rules that is restored: one with the agent's entry and nothing of ours. */
export async function writeOlderRules(machine: Machine): Promise<void> {
  await machine.ok(
    `printf '*nat\\n:PREROUTING ACCEPT [0:0]\\n:INPUT ACCEPT [0:0]\\n:OUTPUT ACCEPT [0:0]\\n:POSTROUTING ACCEPT [0:0]\\n-A ${ENTRY}\\nCOMMIT\\n*filter\\nCOMMIT\\n' >/run/before.rules`,
  );
}

export const flush: Scenario = {
  name: "flush",
  async run(context) {
    const { machine, holds } = context;
    await writeOlderRules(machine);
    await flushes(context, Object.keys(KINDS), "with the watch at work");
    await until(
      "the watch has put everything back",
      async () => (await machine.run("imdsproxy iptables status")).code === 0,
    );
    holds("the watch has put everything back", true);
    const line = await machine.ok("journalctl -u imdsproxy-repair -o cat | grep repaired | tail -n 1");
    holds("and says so in a line, with who did it", /repaired: .*(changed by|is gone)/.test(line), line);
    await machine.ok("systemctl stop imdsproxy-repair");
    await flushes(context, ["iptables -F", "nft flush ruleset"], "with the watch stopped");
    await machine.ok("systemctl start imdsproxy-repair");
    await until(
      "status is right again",
      async () => (await machine.run("imdsproxy iptables status")).code === 0,
    );
  },
};
