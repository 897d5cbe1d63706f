import { describe, expect, test } from "bun:test";
import { execute } from "../../src/service/execute.ts";
import type { Step } from "../../src/service/plan.ts";

/** Runs a plan, with SIGINT during the command `first`. @returns the commands that ran. */
async function interrupted(steps: readonly Step[], first: string): Promise<string[]> {
  const ran: string[] = [];
  await execute(steps, {
    async run(argv) {
      ran.push(argv.join(" "));
      // As where the signal has arrived: the test's own process gets none.
      if (argv[0] === first) process.emit("SIGINT");
      return { exitCode: 0, stdout: "", stderr: "" };
    },
    say() {},
    step: (_, work) => work(),
  });
  return ran;
}

describe("execute() at a signal", () => {
  test("completes what cannot be undone: a plan without a commit is not left half done", async () => {
    const steps: Step[] = [
      { kind: "run", argv: ["stop-watch"], mayFail: true },
      { kind: "run", argv: ["remove-rules"] },
      { kind: "remove", paths: [] },
      { kind: "run", argv: ["stop-proxy"] },
    ];
    expect(await interrupted(steps, "stop-watch")).toEqual(["stop-watch", "remove-rules", "stop-proxy"]);
  });

  test("ends where nothing was changed yet, and says so", async () => {
    const check: Step = { kind: "check-configuration", binary: "check", config: "FILE" };
    const running = interrupted([check, { kind: "run", argv: ["start"] }], "check");
    await expect(running).rejects.toThrow("interrupted; nothing was changed");
  });
});
