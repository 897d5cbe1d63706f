/**
 * systemd's own broker of metadata (systemd-imdsd, from systemd 261), on a node that systemd takes for an instance of EC2, with the metadata
 * address locked or not (`systemd.imds.network=`): who has which role, before and after the installation.
 */
import { type Machine, until } from "../support/machine.ts";
import {
  CONFIGURATION,
  forgetHammered,
  hammered,
  INSTANCE_ROLE,
  PAYLOAD,
  ROLES,
  roleOf,
  USERS,
} from "../support/node.ts";
import type { Context, Scenario } from "../support/scenario.ts";
import { statusesExitZero } from "./install.ts";
import { census, countCensus } from "./main-job.ts";

/** systemd-imdsd as root asks it: through its socket, by a process of the account systemd-imds. */
const ASK = "/usr/lib/systemd/systemd-imds --cache=no /meta-data/iam/security-credentials/";
const LOCK =
  "ip route show type prohibit; ip -6 route show type prohibit; ip rule | grep -i 7fff0815; ip -6 rule | grep -i 7fff0815; true";
/** What systemd makes of its own defaults: the file for systemd-networkd, without `systemd.imds.network=` on the command line. */
const DEFAULT =
  "cp /run/systemd/network/85-imds-early.network /root/kept && SYSTEMD_PROC_CMDLINE=\"$(tr '\\0' '\\n' </proc/1/cmdline | grep '^systemd.imds' | " +
  "grep -v '^systemd.imds.network=' | tr '\\n' ' ')\" /usr/lib/systemd/systemd-imdsd --setup-network; " +
  "cat /run/systemd/network/85-imds-early.network; cp /root/kept /run/systemd/network/85-imds-early.network";

/** Without so many tries nothing is proven. */
const TRIES = 20;

/** What root and systemd-imdsd have, which must be the same with the proxy as without. */
async function stays({ machine, holds }: Context, locked: boolean, when: string): Promise<void> {
  const root = await roleOf(machine);
  holds(
    locked ? `${when}: root has no way, as the lock says` : `${when}: root has the instance role`,
    locked ? !/Role/.test(root) : root === INSTANCE_ROLE,
    root,
  );
  const broker = await machine.run(ASK);
  holds(
    `${when}: systemd-imdsd has the instance role, for root`,
    broker.stdout.includes(INSTANCE_ROLE),
    broker.stdout + broker.stderr,
  );
  const asked = await machine.run(ASK, { as: "alice" });
  holds(
    `${when}: systemd-imdsd tells alice nothing`,
    !asked.stdout.includes("Role"),
    asked.stdout + asked.stderr,
  );
}

/** alice's own tries, which begin with the first moment of a boot: none has the instance role. */
async function nothingLeaks({ machine, count }: Context, what: string): Promise<void> {
  let found = await hammered(machine);
  await until(`alice has tried: ${what}`, async () => {
    found = await hammered(machine);
    return found.tries >= TRIES;
  });
  count(what, found.tries, found.leaks);
}

const served = (machine: Machine, when: string) =>
  until(`alice is served ${when}`, async () => (await roleOf(machine, "alice")) === ROLES.alice, 600_000);

export const imds: Scenario = {
  name: "systemd-imdsd",
  async run(context) {
    const { machine, holds, requests, cell } = context;
    const locked = cell.name.endsWith("-locked");
    const byDefault = await machine.run(DEFAULT);
    holds(
      "without systemd.imds.network= this systemd makes no lock",
      /^Table=0x7FFF0815$/m.test(byDefault.stdout) && !/Type=prohibit/.test(byDefault.stdout),
      /Type=prohibit/.test(byDefault.stdout) ? byDefault.stdout : "",
    );
    const lock = (await machine.ok(LOCK)).trim();
    holds(
      locked
        ? "systemd forbids the way to 169.254.169.254 and to fd00:ec2::254 without its mark"
        : "systemd makes no lock",
      locked
        ? /prohibit 169\.254\.169\.254/.test(lock) && /prohibit fd00:ec2::254/.test(lock)
        : !/prohibit/.test(lock),
      lock || "no such route",
    );
    await until(
      "systemd-imdsd is answered by the metadata service",
      async () => (await machine.run(ASK)).stdout.includes(INSTANCE_ROLE),
      300_000,
    );
    const before = await roleOf(machine, "alice");
    holds(
      locked
        ? "before the installation the lock refuses alice"
        : "before the installation alice has the instance role (the attack works)",
      locked ? !/Role/.test(before) : before === INSTANCE_ROLE,
      before,
    );
    await stays(context, locked, "before the installation");
    // As setup writes it where it makes the configuration: systemd-imdsd's account is exempt.
    await machine.write("/root/config.yaml", `${CONFIGURATION}platform: ec2\n`);
    const setup = await machine.run(
      `sh ${PAYLOAD}/release/install.sh --from ${PAYLOAD}/release/ --config /root/config.yaml`,
    );
    const said = setup.stdout + setup.stderr;
    holds("install.sh and setup end with 0", setup.code === 0, setup.code === 0 ? "" : said);
    const ofLock = said.split("\n").filter((line) => line.includes("systemd.imds.network=locked: "));
    holds(
      locked
        ? "setup says what the lock keeps from root, before it changes anything"
        : "setup says nothing of a lock",
      locked
        ? ofLock.length > 0 && said.indexOf(ofLock[0] ?? "") < said.indexOf("write beside their places")
        : ofLock.length === 0,
      ofLock.join(" "),
    );
    await served(machine, "after the installation");
    await forgetHammered(machine);
    for (const [family, address] of [
      ["IPv4", "169.254.169.254"],
      ["IPv6", "fd00:ec2::254"],
    ] as const) {
      const times = Math.ceil(requests / 10);
      const all = await Promise.all(USERS.map((user) => census(machine, times, ROLES[user], user, address)));
      countCensus(context, all, `by ${family}`, { strict: true });
    }
    await stays(context, locked, "after the installation");
    await nothingLeaks(context, "alice's tries while the proxy answers: none has the instance role");
    const now = (await machine.ok(LOCK)).trim();
    holds("the lock is what it was", now === lock, now);
    await forgetHammered(machine);
    await machine.ok(
      "for i in 1 2 3 4 5; do iptables -t nat -F; ip6tables -t nat -F; sleep 1; done; iptables -t nat -F OUTPUT; sleep 5",
    );
    await nothingLeaks(
      context,
      "alice's tries while the rules of nat are flushed: none has the instance role",
    );
    await served(machine, "after the flushes");
    await statusesExitZero(context);
    await forgetHammered(machine);
    await machine.reboot();
    await served(machine, "after a reboot");
    holds("alice has her role after a reboot", true);
    await machine.booted();
    await stays(context, locked, "after a reboot");
    await nothingLeaks(
      context,
      "alice's tries from the first moment of the boot on: none has the instance role",
    );
    const imported = await machine.run(
      "systemctl restart systemd-imds-import; systemctl show -p Result,ExecMainStatus,ActiveState systemd-imds-import; systemctl status --no-pager -n 10 systemd-imds-import",
    );
    holds(
      "systemd's import of user data and keys goes on",
      /Result=success/.test(imported.stdout) &&
        /ExecMainStatus=0/.test(imported.stdout) &&
        /ActiveState=active/.test(imported.stdout),
      imported.stdout + imported.stderr,
    );
  },
};
