import { outputFailure, print } from "./cli/output.ts";
import { run } from "./cli/run.ts";
import { errorText } from "./cli/say.ts";
import { widthOf } from "./cli/terminal.ts";
import { ImdsProxyError } from "./errors.ts";
import { writeAll } from "./platform/write-all.ts";

// Bun's own passes over an error: a configuration or a policy that a full disk has cut short would be a success.
console.log = (...parts: unknown[]) => print(`${parts.join(" ")}\n`);

/** argv in, exit code out: 0 done or healthy, 1 not, 2 called wrongly. The only place that ends the process. */
try {
  const what = await run(process.argv.slice(2));
  const lost = outputFailure();
  // What changed the node is done, whether its report could be written or not.
  if (lost !== null && what === "report") {
    throw new ImdsProxyError(
      "command-failed",
      `standard output could not be written: ${lost}`,
      "see whether the disk is full: df -h; what was written is not all",
    );
  }
  if (process.exitCode === undefined || process.exitCode === 0) process.exit(0);
  process.exit(process.exitCode);
} catch (error) {
  if (error instanceof ImdsProxyError) {
    writeAll(2, `${errorText(error, widthOf(process.stderr))}\n`);
    process.exit(error.exitCode);
  }
  // Not foreseen. An unknown error's own words could quote anything, so only its kind and our own frames are shown.
  const frames =
    error instanceof Error ? (error.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line)) : [];
  const kind = error instanceof Error ? error.name : typeof error;
  process.stderr.write(`imdsproxy: internal error (${kind})\n${frames.join("\n")}\n`);
  process.exit(1);
}
