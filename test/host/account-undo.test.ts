import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { describeAsRoot } from "../support/root.ts";

/**
 * Makes the account of the service by a useradd that fails when it has written /etc/passwd, as on a disk that fills up in between, in a
 * mount namespace whose /etc is a copy. Prints the commands that ran, and whether the account is there in the end.
 */
const SCRIPT = `
  import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
  import { execute } from ${JSON.stringify(resolve("src/service/execute.ts"))};
  const passwd = () => readFileSync("/etc/passwd", "utf8").split("\\n").filter((line) => line !== "");
  const write = (lines) => writeFileSync("/etc/passwd", lines.map((line) => line + "\\n").join(""));
  const without = () => passwd().filter((line) => !line.startsWith("imdsproxy:"));
  write(without());
  const groups = readFileSync("/etc/group", "utf8");
  writeFileSync("/etc/group", groups.replace(/^imdsproxy:.*\\n/m, ""));
  const ran = [];
  const run = async ([name]) => {
    ran.push(name);
    if (name === "useradd") {
      appendFileSync("/etc/passwd", "imdsproxy:x:990:990:imdsproxy:/nonexistent:/usr/sbin/nologin\\n");
      return { exitCode: 10, stdout: "", stderr: "useradd: cannot write /etc/group" };
    }
    if (name === "userdel") write(without());
    return { exitCode: 0, stdout: "", stderr: "" };
  };
  const steps = [{ kind: "create-account" }, { kind: "run", argv: ["start"] }];
  const problem = await execute(steps, { run, say() {}, step: (_, work) => work() }).then(() => null, (error) => error.problem);
  console.log(JSON.stringify({ ran, problem, left: passwd().length - without().length }));
`;

describeAsRoot("a setup that fails before the commit", () => {
  test("leaves no account behind that useradd has half made", () => {
    const directory = mkdtempSync(join(tmpdir(), "imdsproxy-account-"));
    try {
      const shell = `cp -a /etc "$1/etc" && mount --bind "$1/etc" /etc && exec "$2" -e "$3"`;
      const argv = ["unshare", "--mount", "sh", "-euc", shell, "sh", directory, process.execPath, SCRIPT];
      const { stdout, stderr } = Bun.spawnSync(argv);
      expect(stderr.toString()).toBe("");
      expect(JSON.parse(stdout.toString())).toEqual({
        ran: ["useradd", "userdel"],
        problem: expect.stringContaining("cannot write /etc/group"),
        left: 0,
      });
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
