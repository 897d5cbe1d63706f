import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getent } from "../../src/platform/getent.ts";
import { findProgram, runProgram } from "../../src/platform/programs.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-programs-"));
  writeFileSync(join(directory, "a-program"), "#!/bin/sh\nenv\n", { mode: 0o755 });
  writeFileSync(join(directory, "no-program"), "", { mode: 0o644 });
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("findProgram()", () => {
  test("finds a name in the first directory that has it, and an absolute path where it is", () => {
    expect(findProgram("a-program", `/nonexistent:${directory}`)).toBe(join(directory, "a-program"));
    expect(findProgram(join(directory, "a-program"))).toBe(join(directory, "a-program"));
  });
  test("finds the node's programs where the environment has no PATH, as some daemons give none", () => {
    const path = process.env["PATH"];
    try {
      for (const none of [undefined, ""]) {
        if (none === undefined) delete process.env["PATH"];
        else process.env["PATH"] = none;
        expect(findProgram("getent")).toMatch(/^\/(?:usr\/)?bin\/getent$/);
      }
    } finally {
      process.env["PATH"] = path;
    }
  });
  test("finds nothing that cannot be executed", () => {
    expect(findProgram("no-program", directory)).toBeNull();
    expect(findProgram(join(directory, "absent"))).toBeNull();
  });
  test("passes over relative directories: the current one would choose what root runs", () => {
    const before = process.cwd();
    process.chdir(directory);
    try {
      expect(findProgram("a-program", ".:")).toBeNull();
    } finally {
      process.chdir(before);
    }
  });
});

describe("runProgram()", () => {
  test("gives what was written, and the exit code", async () => {
    const { exitCode, stdout, stderr } = await runProgram(["sh", "-c", "cat; echo no >&2; exit 3"], {
      input: "yes",
    });
    expect({ exitCode, stdout, stderr }).toEqual({ exitCode: 3, stdout: "yes", stderr: "no\n" });
  });
  test("does not wait without end for output that a process has open which the program started", async () => {
    const endsWith = async (then: string): Promise<number> => {
      for (;;) {
        const { exitCode, stdout } = await runProgram(["sh", "-c", `sleep 60 & echo $!; ${then}`], {
          timeoutMs: 1_000,
        });
        const pid = Number(stdout);
        // Else a busy machine did not come to it in its second.
        if (pid > 1) {
          // It is there still: its end was not waited for.
          process.kill(pid, "SIGKILL");
          return exitCode;
        }
      }
    };
    expect(await Promise.all([endsWith("exec sleep 60"), endsWith("exit 4")])).toEqual([137, 4]);
  });
  test("passes on nothing of our environment but PATH", async () => {
    process.env["XTABLES_LIBDIR"] = directory;
    const { stdout } = await runProgram([join(directory, "a-program")]);
    delete process.env["XTABLES_LIBDIR"];
    const names = stdout.split("\n").flatMap((line) => /^(\w+)=/.exec(line)?.[1] ?? []);
    expect(names.filter((name) => !["PWD", "SHLVL", "_", "OLDPWD"].includes(name)).sort()).toEqual([
      "LC_ALL",
      "PATH",
    ]);
  });
  test("says of a program that is not there what a shell says: 127", async () => {
    expect((await runProgram(["no-such-program"])).exitCode).toBe(127);
  });
  test("kills a program that takes longer than it may", async () => {
    expect((await runProgram(["sleep", "600"], { timeoutMs: 50 })).exitCode).not.toBe(0);
  });
});

describe("getent()", () => {
  test("gives the fields of an account and of a group", async () => {
    expect((await getent("passwd", "root"))?.[2]).toBe("0");
    expect((await getent("group", "root"))?.[2]).toBe("0");
  });
  test("gives null for a name that nobody has, and for the number of somebody: it is not a name", async () => {
    expect(await getent("passwd", "no-such-account")).toBeNull();
    expect(await getent("passwd", "0")).toBeNull();
    expect(await getent("group", "--help")).toBeNull();
  });
});
