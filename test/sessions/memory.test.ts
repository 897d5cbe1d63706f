import { expect, test } from "bun:test";

/**
 * What a session keeps, by count of the garbage collector in a process of its own: it does not change with what else runs.
 * docs/benchmarks.md has what each change brought.
 */
test("a session of a user with two groups takes fewer than 40 objects and 4,900 bytes of the heap, its token of 1,200 among them", () => {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, "scripts/bench-sessions.ts"], {
    env: { ...process.env, SESSIONS: "2000", NAMELESS: "" },
  });
  expect({ exitCode, stderr: stderr.toString() }).toEqual({ exitCode: 0, stderr: "" });
  const { sessions, bytes, objects } = JSON.parse(stdout.toString()) as {
    sessions: number;
    bytes: number;
    objects: number;
  };
  expect(sessions).toBe(2_600);
  expect(objects).toBeLessThan(40);
  expect(bytes).toBeLessThan(4_900);
}, 120_000);
