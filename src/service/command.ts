import { ImdsProxyError } from "../errors.ts";
import { type ProgramResult, runProgram, SYSTEM_PATH } from "../platform/programs.ts";

/** Runs a program to its end; a missing program is exit code 127, as in a shell. */
export type RunCommand = (argv: readonly string[]) => Promise<ProgramResult>;

/** Long enough for systemctl, which waits while a unit starts, at most its TimeoutStartSec=. */
const TIMEOUT_MS = 120_000;

/**
 * What the caller's shell has set must not change which of the node's programs run, or what they print. A terminal sends Ctrl-C to all
 * programs of its session; whether a step is broken off is for the caller of this to say.
 */
export const runCommand: RunCommand = (argv) =>
  runProgram(argv, { path: SYSTEM_PATH, timeoutMs: TIMEOUT_MS, ownSession: true });

/** Runs a program that must succeed. */
export async function mustRun(
  run: RunCommand,
  argv: readonly string[],
  remedy: string | null = null,
): Promise<string> {
  const { exitCode, stdout, stderr } = await run(argv);
  if (exitCode === 0) return stdout;
  const said = (stderr.trim() || stdout.trim()).split("\n").slice(-5).join("\n");
  throw new ImdsProxyError(
    "command-failed",
    `\`${argv.join(" ")}\` ended with ${exitCode}${said === "" ? "" : `: ${said}`}`,
    remedy,
  );
}
