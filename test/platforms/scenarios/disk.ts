/** alice fills the disk, its inodes and its blocks, while the node is at work: what is restarted then, and what somebody flushes. */

import { type Machine, until } from "../support/machine.ts";
import { forgetHammered, hammered, ROLES, roleOf } from "../support/node.ts";
import type { Context } from "../support/scenario.ts";
import { censusOfAll, countCensus } from "./main-job.ts";

/** Every inode by an empty file, every block by one large file that is allocated and not written, until not even a byte has room. */
const FILL = `mkdir -p /home/alice/fill; cd /home/alice/fill
python3 -c 'for i in range(10**7): open("%d" % i, "x")' 2>&1 | grep 'No space left' || exit 1
for megabytes in 1024 256 64 16 4 1; do
  while fallocate -o $(stat -c %s 0) -l $((megabytes * 1048576)) 0 2>/dev/null; do :; done
done
for size in 4k 512 1; do dd if=/dev/zero bs=$size of=0 oflag=append conv=notrunc 2>/dev/null; done
! touch /home/alice/x 2>/dev/null && ! echo more >>0`;

export async function fillDisk({ machine, holds }: Context): Promise<void> {
  await machine.ok(FILL, { as: "alice" });
  const left = await machine.ok("df --output=iavail,avail / | tail -n 1");
  holds("alice fills the disk's inodes and blocks", true, left);
}

export const emptyDisk = (machine: Machine): Promise<string> => machine.ok("rm -rf /home/alice/fill");

const served = (machine: Machine, when: string) =>
  until(
    `alice and bob are served ${when}`,
    async () =>
      (await roleOf(machine, "alice")) === ROLES.alice && (await roleOf(machine, "bob")) === ROLES.bob,
  );

/** On a disk that is full already. */
export async function workOnFullDisk(context: Context): Promise<void> {
  const { machine, holds, count, requests } = context;
  await forgetHammered(machine);
  const times = Math.ceil(requests / 4);
  const asking = censusOfAll(machine, times);
  for (const what of [
    "systemctl kill -s KILL imdsproxy",
    "systemctl restart imdsproxy",
    "systemctl reload imdsproxy",
    "systemctl restart imdsproxy-repair",
  ]) {
    await machine.ok(what);
    await served(machine, `on a full disk after ${what}`);
    holds(`on a full disk, after ${what}: alice and bob are served`, true);
  }
  await machine.ok("nft flush ruleset");
  await until(
    "the watch has put everything back on a full disk",
    async () => (await machine.run("imdsproxy iptables status")).code === 0,
  );
  holds("on a full disk, after nft flush ruleset: the watch puts everything back", true);
  countCensus(context, await asking, "on a full disk, meanwhile");
  const { tries, leaks } = await hammered(machine);
  count("on a full disk: alice, asking all the time, has the instance role never", tries, leaks);
}
