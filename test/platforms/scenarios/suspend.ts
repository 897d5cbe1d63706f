/**
 * The machine sleeps, while STS is away: the timers stand still, and only CLOCK_BOOTTIME tells how long it was. A session is served to its
 * real end and not a moment longer, though the wall clock is set back by as much as the machine slept.
 */

import { type Machine, until } from "../support/machine.ts";
import { INSTANCE_ROLE, ROLES, roleOf } from "../support/node.ts";
import type { Scenario } from "../support/scenario.ts";
import { type Given, givenTo } from "./clock.ts";
import { serving, surround } from "./kernel.ts";

/** What STS gives a session here. Its published end is a minute earlier. */
const LIFE_SECONDS = 300;
/** Less than what is left of a session after all that is done before: its age is some seconds by the machine's own time. */
const SHORT_SECONDS = 90;
const AGENT = "curl -sS -m 60 http://169.254.0.2:9081/latest/meta-data/iam/security-credentials/";
const FAULT = "/var/lib/stand-in/sts-fault";
const AWAY = '{"kind":"error","status":503,"code":"ServiceUnavailable"}';

/** Seconds by the kernel's clocks. */
interface Clocks {
  readonly monotonic: number;
  readonly boot: number;
}

async function clocks(machine: Machine): Promise<Clocks> {
  const text = await machine.ok(
    "python3 -c 'import time; print(time.clock_gettime(1), time.clock_gettime(7))'",
  );
  const [monotonic = 0, boot = 0] = text.trim().split(" ").map(Number);
  return { monotonic, boot };
}

/** Sleeps; says for how many seconds the timers stood still. */
async function sleeps(machine: Machine, seconds: number): Promise<number> {
  const before = await clocks(machine);
  if (machine.suspend === undefined) throw new Error("this machine cannot sleep");
  await machine.suspend(seconds);
  const after = await clocks(machine);
  return after.boot - before.boot - (after.monotonic - before.monotonic);
}

async function setSts(machine: Machine, fault: string | null): Promise<void> {
  const text = fault ?? '{"kind":"none"}';
  await machine.ok(
    fault === null ? `rm -f ${FAULT}` : `printf '%s' '${fault}' >${FAULT}.new && mv ${FAULT}.new ${FAULT}`,
  );
  await until("STS has taken the order", async () => {
    return (await machine.run(`cat ${FAULT}.taken`)).stdout === text;
  });
}

export const suspend: Scenario = {
  name: "suspend",
  async run(context) {
    const { machine, holds } = context;
    await surround(context, LIFE_SECONDS);
    await machine.ok("imdsproxy iptables apply");
    await serving(context);
    let first: Given | undefined;
    await until("alice has a session of the short life", async () => {
      first = await givenTo(machine, "alice");
      return first.accessKeyId !== null && first.leftMs > 0 && first.leftMs <= LIFE_SECONDS * 1_000;
    });
    await setSts(machine, AWAY);
    // Whatever had been refreshed before STS went away.
    first = await givenTo(machine, "alice");
    const began = await clocks(machine);
    const short = await sleeps(machine, SHORT_SECONDS);
    holds(
      "the timers stood still while CLOCK_BOOTTIME went on",
      short > SHORT_SECONDS * 0.9,
      `${short.toFixed(1)} s`,
    );
    const again = await givenTo(machine, "alice");
    holds(
      "after a sleep that is shorter than her session's life, with STS away, alice has the same session",
      again.accessKeyId !== null && again.accessKeyId === first.accessKeyId && again.leftMs > 0,
      again.accessKeyId === null ? again.text : `${Math.round(again.leftMs / 1_000)} s are left of it`,
    );
    const now = await clocks(machine);
    const rest = Math.ceil(first.leftMs / 1_000 - (now.boot - began.boot)) + 5;
    const back = rest + SHORT_SECONDS;
    await sleeps(machine, rest);
    await machine.ok(`date -s 'now -${back} seconds'`);
    const over = await givenTo(machine, "alice");
    holds(
      "after its end, with STS away and the clock set back by as much as the machine slept, alice has nothing",
      over.accessKeyId === null && over.status === 503,
      `${over.status}`,
    );
    const agent = await machine.run(AGENT);
    holds(
      "and root has the instance role",
      agent.stdout.includes(INSTANCE_ROLE),
      agent.stdout + agent.stderr,
    );
    await machine.ok(`date -s 'now +${back} seconds'`);
    await setSts(machine, null);
    let last: Given | undefined;
    await until("alice is served again", async () => {
      last = await givenTo(machine, "alice");
      return last.accessKeyId !== null;
    });
    holds(
      "with STS back alice has a session that is not the first and not over",
      last !== undefined && last.accessKeyId !== first.accessKeyId && last.leftMs > 0,
      last?.accessKeyId === null ? last.text : `${Math.round((last?.leftMs ?? 0) / 1_000)} s are left of it`,
    );
    const role = await roleOf(machine, "alice");
    holds("and her own role", role === ROLES.alice, role);
    const direct = await machine.run(AGENT, { as: "alice" });
    holds("and she does not reach the agent", !direct.stdout.includes(INSTANCE_ROLE), direct.stdout);
    const status = await machine.run("imdsproxy iptables status");
    holds(
      "iptables status exits 0",
      status.code === 0,
      status.code === 0 ? "" : status.stdout + status.stderr,
    );
  },
};
