import { ImdsProxyError } from "../errors.ts";

/** Runs a program of the node. Nothing but this file and verify.ts starts processes in this part. */

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; a missing program is exit code 127, as in a shell. */
export type RunCommand = (
  argv: readonly string[],
  options?: { readonly timeoutMs?: number },
) => Promise<CommandResult>;

/** A clean environment: what the caller's shell has set must not change what a tool of the node prints or loads. */
const ENVIRONMENT = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" };

export const runCommand: RunCommand = async (argv, { timeoutMs = 120_000 } = {}) => {
  const program = Bun.which(argv[0] ?? "", ENVIRONMENT);
  if (program === null) return { exitCode: 127, stdout: "", stderr: `${argv[0]}: not found` };
  const child = Bun.spawn([program, ...argv.slice(1)], {
    env: ENVIRONMENT,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr, exitCode] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { exitCode, stdout, stderr };
};

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
