import { describe, expect, test } from "bun:test";
import { processTree } from "../../src/demo/namespace.ts";
import { groundProblem } from "../../src/demo/preflight.ts";
import { type ReportRow, renderReport } from "../../src/demo/report.ts";
import { EXECUTABLE, machineState, namespacesBelow, namespacesGone, startTestNode } from "../support/node.ts";
import { describeAsRoot } from "../support/root.ts";

/** Starts the demo and resolves when it has written `text` to standard error. */
async function demoUntil(text: string, argv: readonly string[] = ["demo"]) {
  const child = Bun.spawn([EXECUTABLE, ...argv], { stdout: "pipe", stderr: "pipe" });
  const decoder = new TextDecoder();
  let said = "";
  const reader = child.stderr.getReader();
  while (!said.includes(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`the demo ended before it said ${JSON.stringify(text)}: ${said}`);
    said += decoder.decode(value, { stream: true });
  }
  const rest = (async () => {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return said;
      said += decoder.decode(value, { stream: true });
    }
  })();
  return { child, rest };
}

const TIMEOUT_MS = 180_000;

describeAsRoot("demo", () => {
  test(
    "shows the hole and how it is closed, for alice, bob and root, and leaves nothing",
    async () => {
      const before = machineState();
      const { child } = await demoUntil("before:", ["demo", "--json"]);
      const spaces = namespacesBelow(processTree(child.pid));
      const report = JSON.parse(await new Response(child.stdout).text()) as {
        ok: boolean;
        rows: ReportRow[];
      };
      expect(await child.exited).toBe(0);
      expect(report.rows.filter(({ ok }) => !ok)).toEqual([]);
      expect(report.ok).toBe(true);

      const bySdk = report.rows.filter(({ what }) => what.includes("SDK"));
      expect(bySdk.map(({ who, before: first, after }) => [who, first, after])).toEqual([
        ["alice", "the instance role", "ImdsProxyTestRole (alice@i-0123456789abcdef0)"],
        ["bob", "the instance role", "DataEng (bob@i-0123456789abcdef0)"],
        ["root", "the instance role", "the instance role"],
      ]);
      const byHand = report.rows.filter(({ before: first }) => first === "its secret keys");
      expect(byHand.length).toBeGreaterThanOrEqual(2);
      expect(byHand.map(({ after }) => after)).not.toContain("its secret keys");

      expect(await namespacesGone(spaces, 0)).toEqual([]);
      expect(machineState()).toEqual(before);
    },
    TIMEOUT_MS,
  );

  // At each step of its way: while it builds, before the proxy, while it starts, with it, and when it is killed.
  const interruptions = [
    ["building", "SIGINT", 130],
    ["building", "SIGTERM", 143],
    ["before:", "SIGHUP", 129],
    ["starting imdsproxy", "SIGINT", 130],
    ["with imdsproxy:", "SIGTERM", 143],
    ["killing the proxy", "SIGINT", 130],
  ] as const;
  for (const [moment, signal, exitCode] of interruptions) {
    test(
      `leaves nothing after ${signal} at "${moment}", and exits with ${exitCode}`,
      async () => {
        const before = machineState();
        // Where this process was held up, the demo has come to its end before the signal: then it is started again.
        for (let isInterrupted = false; !isInterrupted; ) {
          const { child, rest } = await demoUntil(moment);
          const report = new Response(child.stdout).text();
          const spaces = namespacesBelow(processTree(child.pid));
          child.kill(signal);
          const found = [await child.exited, (await rest).includes("interrupted; the node is gone")];
          isInterrupted = !(await report).includes("The node is gone.");
          if (isInterrupted) expect(found).toEqual([exitCode, true]);
          expect(await namespacesGone(spaces, 0)).toEqual([]);
          expect(machineState()).toEqual(before);
        }
      },
      TIMEOUT_MS,
    );
  }

  test(
    "leaves nothing after SIGKILL",
    async () => {
      const before = machineState();
      const { child } = await demoUntil("with imdsproxy:");
      const spaces = namespacesBelow(processTree(child.pid));
      expect(spaces.size).toBe(2);
      child.kill("SIGKILL");
      await child.exited;
      expect(await namespacesGone(spaces, 40_000)).toEqual([]);
      expect(machineState()).toEqual(before);
    },
    TIMEOUT_MS,
  );

  test("without root says what it needs and why, and exits with 1", async () => {
    const node = await startTestNode();
    const { exitCode, stderr } = await node.exec({ user: "alice", argv: ["imdsproxy", "demo"] });
    await node.stop();
    expect(exitCode).toBe(1);
    expect(stderr).toContain("needs root; this is uid 2001");
    expect(stderr).toContain("sudo imdsproxy demo");
  });
});

describe("groundProblem()", () => {
  const good = { uid: 0, missing: [], executable: "/opt/imdsproxy", executableMode: 0o755 };
  test("finds nothing on good ground", () => expect(groundProblem(good)).toBeNull());
  test("names the missing programs and their packages", () => {
    const problem = groundProblem({ ...good, missing: ["ip", "iptables"] });
    expect(problem?.message).toContain("not found here: ip, iptables");
    expect(problem?.message).toContain("iproute2");
  });
  test("names the uid that is not root's", () =>
    expect(groundProblem({ ...good, uid: 1000 })?.exitCode).toBe(1));
  test("wants an executable", () =>
    expect(groundProblem({ ...good, executable: null })?.message).toContain("make demo"));
  test("wants it to be everybody's to run", () =>
    expect(groundProblem({ ...good, executableMode: 0o700 })?.message).toContain("chmod 755 /opt/imdsproxy"));
});

describe("renderReport()", () => {
  const row = { who: "alice", what: "asks", before: null, after: "404 not found", ok: true };
  test("aligns its columns and marks what is wrong", () => {
    const lines = renderReport([row, { ...row, before: "everything", ok: false }], false).split("\n");
    expect(lines).toEqual([
      "       WHO    TRIES  BEFORE      WITH IMDSPROXY",
      "ok     alice  asks   -           404 not found",
      "WRONG  alice  asks   everything  404 not found",
    ]);
  });
});
