import { run } from "./cli/run.ts";
import { ImdsProxyError } from "./errors.ts";

/** argv in, exit code out: 0 done or healthy, 1 not, 2 called wrongly. The only place that ends the process. */
try {
  await run(process.argv.slice(2));
  if (process.exitCode === undefined || process.exitCode === 0) process.exit(0);
  process.exit(process.exitCode);
} catch (error) {
  if (error instanceof ImdsProxyError) {
    process.stderr.write(`imdsproxy: ${error.message}\n`);
    process.exit(error.exitCode);
  }
  // Not foreseen: the stack names our own code and no request, so it holds no secret.
  process.stderr.write(
    `imdsproxy: internal error: ${error instanceof Error ? (error.stack ?? error.message) : "unknown"}\n`,
  );
  process.exit(1);
}
