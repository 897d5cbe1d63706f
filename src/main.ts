import { run } from "./cli/run.ts";
import { errorText } from "./cli/say.ts";
import { widthOf } from "./cli/terminal.ts";
import { ImdsProxyError } from "./errors.ts";

/** argv in, exit code out: 0 done or healthy, 1 not, 2 called wrongly. The only place that ends the process. */
try {
  await run(process.argv.slice(2));
  if (process.exitCode === undefined || process.exitCode === 0) process.exit(0);
  process.exit(process.exitCode);
} catch (error) {
  if (error instanceof ImdsProxyError) {
    process.stderr.write(`${errorText(error, widthOf(process.stderr))}\n`);
    process.exit(error.exitCode);
  }
  // Not foreseen. An unknown error's own words could quote anything, so only its kind and our own frames are shown.
  const frames =
    error instanceof Error ? (error.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line)) : [];
  const kind = error instanceof Error ? error.name : typeof error;
  process.stderr.write(`imdsproxy: internal error (${kind})\n${frames.join("\n")}\n`);
  process.exit(1);
}
