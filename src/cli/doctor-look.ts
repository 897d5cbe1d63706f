import { writeSync } from "node:fs";
import { defineCommand } from "citty";
import { sleepSync } from "../platform/clock.ts";

const STDOUT = 1;
/** Milliseconds until a pipe that is full is tried again. */
const AGAIN_MS = 5;

/** Writes synchronously, because the next task of this process may never end. */
function writeLine(line: string): void {
  let bytes: Uint8Array = Buffer.from(`${line}\n`);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(STDOUT, bytes));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      sleepSync(AGAIN_MS);
    }
  }
}

export default defineCommand({
  meta: {
    name: "doctor-look",
    description: "Looks at files and processes for doctor, as a process that can be killed",
    hidden: true,
  },
  args: {},
  async run() {
    const { carryOut } = await import("../doctor/gather/child.ts");
    await carryOut(await new Response(Bun.stdin.stream()).text(), writeLine);
  },
});
