import { afterEach, beforeEach, expect, test } from "bun:test";
import { chownSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tokenKey } from "../../src/wiring/token-key.ts";
import { failure } from "../support/failure.ts";
import { describeAsRoot } from "../support/root.ts";

let base: string;
let directory: string;
beforeEach(() => {
  base = mkdtempSync("/tmp/imdsproxy-key-");
  directory = `${base}/state`;
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

describeAsRoot("tokenKey() as root", () => {
  test("refuses a key or a directory of another account", () => {
    tokenKey(directory);
    chownSync(`${directory}/token.key`, 2001, 2001);
    expect(failure(() => tokenKey(directory)).message).toContain(
      "belongs to uid 2001, not to this service's account",
    );
    chownSync(`${directory}/token.key`, 0, 0);
    chownSync(directory, 2001, 2001);
    expect(failure(() => tokenKey(directory)).code).toBe("unsafe");
  });

  test("refuses a directory below another account's", () => {
    mkdirSync(`${base}/alice`);
    chownSync(`${base}/alice`, 2001, 2001);
    expect(failure(() => tokenKey(`${base}/alice/state`)).message).toContain("which uid 2001 owns");
  });

  test("leaves nothing half-made on a full disk, and works once there is room", () => {
    const script = `
      set -eu
      mount -t tmpfs -o size=16k,mode=700 full "${base}"
      mkdir -m 700 "${directory}"
      dd if=/dev/zero of="${base}/filler" bs=1k count=64 2>/dev/null || true
      "$1" "$2" "${directory}" || true
      ls -A "${directory}"
      rm "${base}/filler"
      "$1" "$2" "${directory}"
      ls -A "${directory}"`;
    const start = `${base}.ts`;
    writeFileSync(
      start,
      `import { tokenKey } from ${JSON.stringify(`${import.meta.dir}/../../src/wiring/token-key.ts`)};
       try { console.log("key of", tokenKey(process.argv[2]).length); } catch (error) { console.log(error.code, error.message); }`,
    );
    try {
      const run = Bun.spawnSync(["unshare", "--mount", "sh", "-c", script, "sh", process.execPath, start]);
      const lines = run.stdout.toString().trim().split("\n");
      expect(lines[0]).toBe(`permission cannot keep the token key in ${directory}: ENOSPC`);
      expect(lines.slice(-2)).toEqual(["key of 32", "token.key"]);
      expect(lines.slice(2, -2)).toEqual([]);
    } finally {
      rmSync(start);
    }
  });

  test("a user who waits for the key's making finds nothing to read", () => {
    // The mode is given at the making, so that there is no moment at which another could open it.
    tokenKey(directory);
    expect(statSync(directory).mode & 0o077).toBe(0);
    const read = Bun.spawnSync([
      "setpriv",
      "--reuid=2001",
      "--regid=2001",
      "--clear-groups",
      "cat",
      `${directory}/token.key`,
    ]);
    expect(read.exitCode).not.toBe(0);
    expect(read.stdout).toHaveLength(0);
  });
});
