import { existsSync } from "node:fs";
import { runProgram } from "../platform/programs.ts";

/**
 * For kernels before 5.12, where the table does not go away with its process: a transient unit that runs as long as this process, and
 * removes the table when this process ends, also where it is killed.
 */

const UNIT = "imdsproxy-observe-sweep";

/**
 * Starts the unit.
 *
 * @param executable this program; null where it runs from source, and a unit cannot start it.
 * @returns a note for the operator where the unit could not be started; else null.
 */
export async function armSweeper(executable: string | null, pid: number): Promise<string | null> {
  const otherwise =
    "the next imdsproxy observe, or imdsproxy observe --sweep, removes its table where this one is killed (kill -9)";
  if (executable === null || !existsSync("/run/systemd/system"))
    return `this kernel has no nftables tables with an owner (5.12 has), and there is no systemd: ${otherwise}`;
  const { exitCode, stderr } = await runProgram([
    "systemd-run",
    "--quiet",
    "--collect",
    `--unit=${UNIT}`,
    `--property=ExecStopPost=${executable} observe --sweep`,
    "tail",
    `--pid=${pid}`,
    "-f",
    "/dev/null",
  ]);
  return exitCode === 0
    ? null
    : `this kernel has no nftables tables with an owner (5.12 has), and systemd-run failed (${stderr.trim().slice(0, 200)}): ${otherwise}`;
}

/**
 * Starts the unit again where it has ended, and has removed the table.
 *
 * @returns as {@link armSweeper}.
 */
export async function rearmSweeper(executable: string | null, pid: number): Promise<string | null> {
  const { stdout } = await runProgram(["systemctl", "is-active", `${UNIT}.service`]);
  // One that runs must not be stopped: that would remove the table once more.
  if (stdout.trim() === "active") return null;
  // A unit that is still stopping keeps its name until it has ended.
  await disarmSweeper();
  return armSweeper(executable, pid);
}

/** Ends the unit, when the table is gone. */
export async function disarmSweeper(): Promise<void> {
  await runProgram(["systemctl", "--quiet", "stop", `${UNIT}.service`]);
}
