import { expect, test } from "bun:test";
import { resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dir, "../..");

/**
 * The short form of the bench: our own code's time for a request, as a multiple of the least that a server can take in the same seconds. The
 * bounds are more than twice what it is, and the least of many short batches is taken, so that it fails by no chance on a busy machine. With
 * fewer requests the optimizers come to our code late there, and to the least server's code, which is shorter, soon.
 */
test("a request takes no more of our own code, by the least server's, than the bounds of make bench-code allow", () => {
  const { stdout, stderr, exitCode } = Bun.spawnSync(
    [process.execPath, "scripts/bench-code.ts", "kept", "new"],
    { cwd: REPOSITORY, env: { ...process.env, REQUESTS: "40000" } },
  );
  expect({ exitCode, stderr: stderr.toString() }).toEqual({ exitCode: 0, stderr: "" });
  expect(stdout.toString()).toMatch(/^kept .* by the least server's: +\d/m);
}, 600_000);
