import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Running } from "../../src/demo/run.ts";
import { eventually, type ProxiedNode, startProxiedNode } from "../support/proxied.ts";
import { describeAsRoot } from "../support/root.ts";
import { attack, SHOW_PROGRAMS } from "./support/attack.ts";

/**
 * Some of root's commands act as a user, by a process with that user's uid: `doctor --as`, `setup --verify-as`, `warm USER`. Another
 * process of the user's can stop, kill and change that one (kill(2), ptrace(2)). What alice wants of it is root's terminal, into whose
 * input a process may type (ioctl_tty(2), TIOCSTI), and that root's command never ends.
 */

const ROOT = { user: "root" } as const;
const ALICE = { user: "alice" } as const;

describeAsRoot("a command of root's that acts as a user:", () => {
  let proxied: ProxiedNode;
  beforeAll(async () => {
    proxied = await startProxiedNode({ show: SHOW_PROGRAMS });
  });
  afterAll(() => proxied?.node.stop());

  async function watching(what: "look" | "kill"): Promise<Running> {
    const watcher = proxied.node.spawn({
      ...ALICE,
      argv: ["/usr/bin/python3", "/run/attack/watcher.py", what, "100"],
      timeoutMs: 0,
    });
    await eventually("she watches", () => watcher.stdout().includes("watching"));
    return watcher;
  }
  /** On a terminal, which script(1) makes; it ends with the command's exit code. */
  const onTerminal = (command: string): Running =>
    proxied.node.spawn({ ...ROOT, argv: ["script", "-qec", command, "/dev/null"] });

  for (const command of ["imdsproxy doctor --as alice", "imdsproxy warm alice"]) {
    test(`${command}: her processes come into none with root's terminal`, async () => {
      const watcher = await watching("look");
      const isWatching = () => watcher.pid() !== null;
      // Again where she was too slow.
      while (isWatching()) {
        const running = onTerminal(command);
        await Promise.race([running.done, watcher.done]);
        // Its terminal ends with script(1), and the command with its terminal.
        running.kill("SIGKILL");
        await running.done;
      }
      expect(JSON.parse((await watcher.done).stdout.split("\n")[1] ?? "")).toEqual({
        terminal: 0,
        parent: 0,
      });
    }, 240_000);
  }

  test("it waits for none that she can stop, whenever she comes", async () => {
    const command = ["2001", "imdsproxy", "warm", "alice"];
    const found = await attack<{ waited: number; became: number }>(proxied.node, ROOT, "becoming", command);
    expect(found.became).toBeGreaterThan(0);
    expect(found.waited).toBe(0);
  }, 240_000);

  test("she can trace none, nor open its memory: what began as root's stays closed to her", async () => {
    const warming = proxied.node.spawn({
      ...ROOT,
      argv: ["imdsproxy", "warm", "alice", "--spread", "3600"],
      timeoutMs: 100_000,
    });
    try {
      const found = await attack(proxied.node, ALICE, "tracer", []);
      expect(found).toEqual({ attach: "EPERM", memory: "EACCES" });
    } finally {
      warming.kill("SIGKILL");
      await warming.done;
    }
  }, 240_000);

  test("the command by which it becomes her makes nobody of anybody who is not root", async () => {
    for (const ids of ["0:0", "2001:2001", "2002:2002"]) {
      const argv = ["imdsproxy", "as-user", ids, '["--version"]'];
      const { exitCode, stdout, stderr } = await proxied.node.exec({ ...ALICE, argv });
      expect({ ids, exitCode, stdout }).toEqual({ ids, exitCode: 1, stdout: "" });
      expect(stderr).toContain("cannot give up root here");
    }
  });

  test("numbers that are no uid, and no list of words, end it before it runs anything", async () => {
    for (const [ids, command] of [
      ["4294967295:1", '["--version"]'],
      ["4294967296:4294967296", '["--version"]'],
      ["2001", '["--version"]'],
      ["2001:2001", '{"0":"--version"}'],
      ["2001:2001", "--version"],
    ] as const) {
      const argv = ["imdsproxy", "as-user", "--", ids, command];
      const { exitCode, stdout } = await proxied.node.exec({ ...ROOT, argv });
      expect({ ids, command, exitCode, stdout }).toEqual({ ids, command, exitCode: 2, stdout: "" });
    }
  });

  test("warm ends with 1 when she kills what asks as her, and says so", async () => {
    const watcher = await watching("kill");
    let ended = await onTerminal("imdsproxy warm alice").done;
    while (ended.exitCode === 0) ended = await onTerminal("imdsproxy warm alice").done;
    watcher.kill("SIGKILL");
    expect([ended.exitCode, ended.stdout]).toMatchObject([
      1,
      expect.stringContaining("was ended by a signal"),
    ]);
  }, 240_000);
});
