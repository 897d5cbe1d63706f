import { describe } from "bun:test";

/** True where namespaces, iptables and other users can be had. */
export const isRoot = process.getuid?.() === 0;

/**
 * A group of tests that needs root. Without root they are skipped, with a line that says how to run them;
 * in CI (CI=true) a skip would hide a failure, so there they run and fail.
 */
export function describeAsRoot(name: string, tests: () => void): void {
  if (isRoot || process.env["CI"] === "true") {
    describe(name, tests);
    return;
  }
  process.stderr.write(`skipped: ${name} needs root; run: sudo make test\n`);
  describe.skip(name, tests);
}
