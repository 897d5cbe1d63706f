import { expect, test } from "bun:test";
import { resolve } from "node:path";
import { describeAsRoot } from "../support/root.ts";

/** What a process of root's is after become(), as the kernel has it; it had two supplementary groups before. */
function after(credentials: { uid: number; gid: number }): Record<string, string> {
  const script = `
    import { become } from ${JSON.stringify(resolve("src/cli/become.ts"))};
    process.setgroups([4, 27]);
    become(${JSON.stringify(credentials)});
    console.log(require("node:fs").readFileSync("/proc/self/status", "utf8"));`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", script]);
  expect(stderr.toString()).toBe("");
  const lines = stdout.toString().split("\n");
  return Object.fromEntries(
    ["Uid", "Gid", "Groups", "CapEff"].map((name) => [
      name,
      (lines.find((line) => line.startsWith(`${name}:`)) ?? "").slice(name.length + 1).trim(),
    ]),
  );
}

describeAsRoot("become()", () => {
  test("the uid and the gid are those that were given, where they differ, for good; nothing of root's groups is left", () => {
    expect(after({ uid: 2001, gid: 3001 })).toEqual({
      // Real, effective, saved, of the file system (proc_pid_status(5)).
      Uid: "2001\t2001\t2001\t2001",
      Gid: "3001\t3001\t3001\t3001",
      Groups: "",
      CapEff: "0000000000000000",
    });
  });
});
