import { expect, test } from "bun:test";
import { resolve } from "node:path";

const REPOSITORY = resolve(import.meta.dir, "../..");

const hasShellcheck = Bun.which("shellcheck") !== null;
test.skipIf(!hasShellcheck && process.env["CI"] !== "true")("shellcheck finds nothing in any script", () => {
  const files = Bun.spawnSync(["git", "ls-files", "*.sh", ".ci/run"], { cwd: REPOSITORY }).stdout.toString();
  const scripts = files.trim().split("\n");
  expect(scripts).toContain(".ci/run");
  const { stdout, exitCode } = Bun.spawnSync(["shellcheck", ...scripts], { cwd: REPOSITORY });
  expect([exitCode, stdout.toString()]).toEqual([0, ""]);
});
