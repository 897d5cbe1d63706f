import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tokenKey } from "../../src/wiring/token-key.ts";
import { failure } from "../support/failure.ts";

let base: string;
let directory: string;
beforeEach(() => {
  base = mkdtempSync("/tmp/imdsproxy-key-");
  directory = `${base}/state`;
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

const mode = (path: string): string => (lstatSync(path).mode & 0o777).toString(8);

describe("tokenKey()", () => {
  test("makes directory and key, closed to others, whatever the umask", () => {
    const umask = process.umask(0);
    try {
      expect(tokenKey(directory)).toHaveLength(32);
    } finally {
      process.umask(umask);
    }
    expect([mode(directory), mode(`${directory}/token.key`)]).toEqual(["700", "600"]);
    expect(readdirSync(directory)).toEqual(["token.key"]);
  });

  test("gives the same key at the next start, and another to another directory", () => {
    const first = tokenKey(directory);
    expect(tokenKey(directory)).toEqual(first);
    expect(tokenKey(`${base}/other`)).not.toEqual(first);
  });

  test("gives one key to starts that race", async () => {
    const script = `
      import { tokenKey } from ${JSON.stringify(`${import.meta.dir}/../../src/wiring/token-key.ts`)};
      await Bun.stdin.text();
      console.log(Buffer.from(tokenKey(${JSON.stringify(directory)})).toString("hex"));`;
    writeFileSync(`${base}/start.ts`, script);
    const starts = Array.from({ length: 6 }, () =>
      Bun.spawn([process.execPath, `${base}/start.ts`], { stdin: "pipe", stdout: "pipe", stderr: "pipe" }),
    );
    // All wait for their input's end, which comes to all at once.
    await Bun.sleep(300);
    for (const start of starts) start.stdin.end();
    const keys = await Promise.all(
      starts.map(async (start) => (await new Response(start.stdout).text()).trim()),
    );
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(/^[0-9a-f]{64}$/);
    expect(readdirSync(directory)).toEqual(["token.key"]);
  });

  for (const [name, content] of [
    ["an empty key", ""],
    ["a key that is too short", "x".repeat(31)],
    ["a key that is too long", "x".repeat(33)],
  ] as const) {
    test(`refuses ${name}, and leaves it`, () => {
      mkdirSync(directory, { mode: 0o700 });
      writeFileSync(`${directory}/token.key`, content, { mode: 0o600 });
      const error = failure(() => tokenKey(directory));
      expect(error.code).toBe("unsafe");
      expect(error.problem).toBe(`${directory}/token.key does not hold a key of 32 bytes`);
      expect(readFileSync(`${directory}/token.key`, "utf8")).toBe(content);
    });
  }

  for (const open of [0o640, 0o604, 0o620, 0o602, 0o610, 0o666, 0o644]) {
    test(`refuses a key of mode ${open.toString(8)}`, () => {
      tokenKey(directory);
      chmodSync(`${directory}/token.key`, open);
      const error = failure(() => tokenKey(directory));
      expect(error.code).toBe("unsafe");
      expect(error.message).toContain(`can be read or written by others (mode 0${open.toString(8)})`);
      expect(error.message).toContain(`chmod 0600 ${directory}/token.key`);
    });
  }

  for (const open of [0o720, 0o702, 0o777, 0o1777]) {
    test(`refuses a directory of mode ${open.toString(8)}`, () => {
      tokenKey(directory);
      chmodSync(directory, open);
      const error = failure(() => tokenKey(directory));
      expect(error.code).toBe("unsafe");
      expect(error.message).toContain("can be written by others");
    });
  }

  test("takes a directory that others may read: systemd makes it 0755 where it is told to", () => {
    mkdirSync(directory, { mode: 0o755 });
    expect(tokenKey(directory)).toHaveLength(32);
  });

  test("refuses a directory below one that others may write", () => {
    mkdirSync(`${base}/open`);
    chmodSync(`${base}/open`, 0o777);
    const error = failure(() => tokenKey(`${base}/open/state`));
    expect(error.code).toBe("unsafe");
    expect(error.message).toContain(`is below ${base}/open, which others may write`);
  });

  test("refuses a key that is a symbolic link, even to a good one", () => {
    const other = `${base}/other`;
    tokenKey(other);
    mkdirSync(directory, { mode: 0o700 });
    symlinkSync(`${other}/token.key`, `${directory}/token.key`);
    expect(failure(() => tokenKey(directory)).message).toContain("ELOOP");
  });

  test("refuses a key that is a symbolic link to nothing, and makes nothing there", () => {
    mkdirSync(directory, { mode: 0o700 });
    symlinkSync(`${base}/elsewhere`, `${directory}/token.key`);
    expect(failure(() => tokenKey(directory)).code).toBe("unsafe");
    expect(existsSync(`${base}/elsewhere`)).toBe(false);
  });

  for (const spelled of ["", "/"]) {
    test(`refuses a directory that is a symbolic link, written as state${spelled}`, () => {
      mkdirSync(`${base}/real`, { mode: 0o700 });
      symlinkSync(`${base}/real`, directory);
      expect(failure(() => tokenKey(directory + spelled)).code).toBe("unsafe");
      expect(readdirSync(`${base}/real`)).toEqual([]);
    });
  }

  test("refuses a way there that leads over a symbolic link", () => {
    mkdirSync(`${base}/real`, { mode: 0o700 });
    symlinkSync(`${base}/real`, `${base}/link`);
    expect(failure(() => tokenKey(`${base}/link/state`)).code).toBe("unsafe");
  });

  test("refuses a key that is a directory, a pipe", () => {
    mkdirSync(`${directory}/token.key`, { recursive: true, mode: 0o700 });
    expect(failure(() => tokenKey(directory)).message).toContain("is no file");
    rmSync(`${directory}/token.key`, { recursive: true });
    Bun.spawnSync(["mkfifo", "-m", "600", `${directory}/token.key`]);
    // Opened for reading, a pipe waits for its writer: a start that hangs says nothing to anybody.
    expect(failure(() => tokenKey(directory)).message).toContain("is no file");
  });

  test("says what is wrong where the directory cannot be made", () => {
    writeFileSync(`${base}/file`, "");
    const error = failure(() => tokenKey(`${base}/file/state`));
    expect([error.code, error.problem]).toEqual([
      "permission",
      `cannot make the state directory ${base}/file/state: ENOTDIR`,
    ]);
    expect(error.remedy).toContain("--state-dir");
  });
});
