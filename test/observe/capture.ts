/**
 * The edge of observe as a kernel or a load has it that is not here; run by Bun on a node. `capture.ts unowned [EXECUTABLE]` listens
 * by a table without an owner, as before linux 5.12, with the unit that sweeps where EXECUTABLE is given, until SIGTERM; then it prints
 * what it has seen. `capture.ts small GO` has a small buffer, reads nothing before the file GO is there, and again when GO.end is; then
 * it prints what it got. `capture.ts tables` prints the names of the tables of inet, for a node without nft(8).
 */
import { existsSync } from "node:fs";
import { find, textOf } from "../../src/firewall/nftables/attributes.ts";
import { readBody } from "../../src/firewall/nftables/batch.ts";
import { MSG, NFPROTO, TABLE } from "../../src/firewall/nftables/names.ts";
import { NftSocket } from "../../src/firewall/nftables/socket.ts";
import { Capture } from "../../src/observe/capture.ts";
import { listen } from "../../src/observe/listen.ts";
import { armSweeper, disarmSweeper, rearmSweeper } from "../../src/observe/sweeper.ts";

const [mode, argument = null] = process.argv.slice(2);

/** Until the file is there; forever without one. */
async function until(path: string | null): Promise<void> {
  while (path === null || !existsSync(path)) await Bun.sleep(20);
}

if (mode === "unowned") {
  // As the command does it, whose kernel here has owners.
  let hasEnded = false;
  process.on("SIGTERM", () => {
    hasEnded = true;
  });
  const { observed } = await listen({
    owner: false,
    accounts: { resolve: async () => ({ user: null, groups: [], subordinate: false }) },
    node: "node",
    shareOf: (uid) => uid,
    earlier: null,
    forMs: null,
    ended: () => hasEnded,
    async onListening({ owned }) {
      console.log(
        JSON.stringify({
          owned,
          problem: argument === null ? null : await armSweeper(argument, process.pid),
        }),
      );
    },
    async onRestored() {
      if (argument !== null) await rearmSweeper(argument, process.pid);
      console.log("restored");
    },
    onTick: () => {},
    onSave: () => {},
  });
  if (argument !== null) await disarmSweeper();
  const requests = observed.callers.reduce((sum, caller) => sum + caller.requests, 0);
  console.log(JSON.stringify({ requests, gap: observed.runs[0]?.gap === true }));
} else if (mode === "tables") {
  const socket = new NftSocket();
  for (const message of socket.dump(MSG.GETTABLE, NFPROTO.INET)) {
    const name = find(readBody(message)?.attributes ?? [], TABLE.NAME);
    if (name !== undefined) console.log(textOf(name));
  }
  socket.close();
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
