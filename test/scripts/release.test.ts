import { afterEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeRelease } from "../../scripts/release.ts";

const directory = mkdtempSync(join(tmpdir(), "imdsproxy-release-"));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test("writeRelease() puts all that is to be published into one folder, with sums that hold, install.sh's among them", () => {
  const folder = join(directory, "release");
  // What an earlier release left behind is not published with this one.
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "imdsproxy-of-yesterday"), "old");
  const script = readFileSync("scripts/install.sh");
  const executables = ["imdsproxy-linux-x64", "imdsproxy-linux-arm64"].map((name) => ({
    name,
    bytes: Buffer.from(name),
  }));
  const files = writeRelease(folder, executables, script);
  expect(readdirSync(folder).sort()).toEqual([...files].sort());
  expect([...files].sort()).toEqual([
    "SHA256SUMS",
    "imdsproxy-linux-arm64",
    "imdsproxy-linux-arm64.gz",
    "imdsproxy-linux-x64",
    "imdsproxy-linux-x64.gz",
    "install.sh",
  ]);
  const check = Bun.spawnSync(["sha256sum", "--check", "--strict", "SHA256SUMS"], { cwd: folder });
  expect([check.exitCode, check.stdout.toString().match(/: OK$/gm)?.length]).toEqual([0, 5]);
  expect(Bun.spawnSync(["gzip", "-dc", "imdsproxy-linux-x64.gz"], { cwd: folder }).stdout.toString()).toBe(
    "imdsproxy-linux-x64",
  );
  expect(readFileSync(join(folder, "install.sh"))).toEqual(script);
});
