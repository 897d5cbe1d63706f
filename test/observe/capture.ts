/**
 * The edge of observe as a kernel or a load has it that is not here; run by Bun on a node. `capture.ts unowned [EXECUTABLE]` listens
 * by a table without an owner, as before linux 5.12, with the unit that sweeps where EXECUTABLE is given; `capture.ts small GO` has
 * a small buffer, reads nothing before the file GO is there, and again when GO.end is; then it prints what it got.
 */
import { existsSync } from "node:fs";
import { Capture } from "../../src/observe/capture.ts";
import { armSweeper, disarmSweeper } from "../../src/observe/sweeper.ts";

const [mode, argument = null] = process.argv.slice(2);

/** Until the file is there; forever without one. */
async function until(path: string | null): Promise<void> {
  while (path === null || !existsSync(path)) await Bun.sleep(20);
}

if (mode === "unowned") {
  const capture = new Capture({ owner: false });
  const problem = argument === null ? null : await armSweeper(argument, process.pid);
  console.log(JSON.stringify({ owned: capture.owned, problem }));
  await until(argument === null ? null : "/run/capture-ends");
  capture.close();
  if (argument !== null) await disarmSweeper();
} else {
  const capture = new Capture({ receiveBytes: 4_096 });
  console.log("listening");
  let [read, missed, syns] = [0, 0, 0];
  let wasOverrun = false;
  const readAll = () => {
    for (let count = 1; count > 0; ) {
      const got = capture.read(1_024, ({ bytes }) => {
        // struct tcphdr behind an IPv4 header without options: byte 13 has the flags, of which SYN is 2.
        if (bytes.getUint8(33) === 2) syns++;
      });
      count = got.read;
      read += got.read;
      missed += got.missed;
      wasOverrun ||= got.overrun || got.missed > 0;
    }
  };
  await until(argument);
  readAll();
  console.log("read");
  // The number of the next packet tells how many were dropped before it.
  await until(`${argument}.end`);
  capture.stop();
  readAll();
  console.log(JSON.stringify({ read, missed, syns, wasOverrun }));
  capture.close();
}
