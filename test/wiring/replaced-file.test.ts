import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FileState, fileState, ReplacedFile } from "../../src/wiring/replaced-file.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** A watched path of which a test says what stands there. */
function aPath(first: FileState | null) {
  const clock = new FakeClock();
  const state = { now: first };
  const seen: string[] = [];
  const watch = new ReplacedFile({
    path: "/etc/x.yaml",
    loaded: first,
    clock,
    files: { look: async () => state.now, lookNow: () => state.now },
    onReplaced() {
      watch.reading();
      seen.push(state.now?.file ?? "none");
    },
  });
  return { clock, state, seen, watch };
}
const A: FileState = { file: "1:1", written: "10 1 1" };
const B: FileState = { file: "1:2", written: "12 2 2" };

describe("a file that is replaced", () => {
  test("is seen once it has been the same at two looks, and once", async () => {
    const { clock, state, seen } = aPath(A);
    await clock.advance(5_000);
    state.now = B;
    await clock.advance(250);
    expect(seen).toEqual([]);
    await clock.advance(250);
    expect(seen).toEqual(["1:2"]);
    await clock.advance(5_000);
    expect(seen).toEqual(["1:2"]);
  });
  test("is not seen while it is still being written", async () => {
    const { clock, state, seen } = aPath(A);
    for (let size = 0; size < 20; size++) {
      state.now = { file: "1:2", written: `${size} 2 2` };
      await clock.advance(250);
    }
    expect(seen).toEqual([]);
    await clock.advance(250);
    expect(seen).toEqual(["1:2"]);
  });
  test("is not seen where it went back in between, nor while it is missing", async () => {
    const { clock, state, seen } = aPath(A);
    for (const now of [B, A, B, null, B, A, null]) {
      state.now = now;
      await clock.advance(250);
    }
    await clock.advance(5_000);
    expect(seen).toEqual([]);
  });
  test("is seen as well where it is replaced while the one before it is looked at", async () => {
    const clock = new FakeClock();
    let now = B;
    const seen: string[] = [];
    const files = { look: async () => now, lookNow: () => now };
    const watch = new ReplacedFile({
      path: "/etc/x.yaml",
      loaded: A,
      clock,
      files,
      // It reads nothing, as where the text is the one that is in effect.
      onReplaced() {
        seen.push(now.file);
        now = { file: "1:3", written: "14 3 3" };
      },
    });
    await clock.advance(500);
    expect(seen).toEqual(["1:2"]);
    await clock.advance(500);
    expect(seen).toEqual(["1:2", "1:3"]);
    watch.stop();
  });
  test("is seen where there was none at the start", async () => {
    const { clock, state, seen } = aPath(null);
    state.now = A;
    await clock.advance(500);
    expect(seen).toEqual(["1:1"]);
  });
  test("is not seen again where it was read meanwhile, nor after the end", async () => {
    const { clock, state, seen, watch } = aPath(A);
    state.now = B;
    await clock.advance(250);
    watch.reading();
    await clock.advance(5_000);
    expect(seen).toEqual([]);
    state.now = A;
    await clock.advance(250);
    watch.stop();
    await clock.advance(5_000);
    expect([seen, clock.pending]).toEqual([[], 0]);
  });
});

test("a file that is written in place is left to whoever reloads", async () => {
  const { clock, state, seen } = aPath(A);
  state.now = { ...A, written: "99 9 9" };
  await clock.advance(5_000);
  expect(seen).toEqual([]);
});

describe("of files as they are, another one is", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "imdsproxy-replaced-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  let count = 0;
  /** Whether what `change` does to a file of this text makes another file of the path, by both looks. */
  async function isOther(change: (path: string) => void): Promise<boolean> {
    const path = join(folder, `${count++}.yaml`);
    writeFileSync(path, "a");
    const before = fileState.lookNow(path);
    change(path);
    const after = await fileState.look(path);
    expect(fileState.lookNow(path)).toEqual(after);
    return before?.file !== after?.file;
  }
  test.each<[string, boolean, (path: string) => void]>([
    [
      "one that was renamed over it",
      true,
      (path) => {
        writeFileSync(`${path}.new`, "a");
        renameSync(`${path}.new`, path);
      },
    ],
    ["none that was written in place", false, (path) => writeFileSync(path, "b")],
    ["none whose mode was changed", false, (path) => chmodSync(path, 0o600)],
    ["none that is gone", true, (path) => unlinkSync(path)],
  ])("%s", async (_, is, change) => expect(await isOther(change)).toBe(is));
  test("the one that a link in the middle of the path leads to", async () => {
    const root = join(folder, "linked");
    for (const version of ["1", "2"]) {
      mkdirSync(join(root, version), { recursive: true });
      writeFileSync(join(root, version, "config.yaml"), "a");
    }
    symlinkSync("1", join(root, "current"));
    const path = join(root, "current", "config.yaml");
    const before = fileState.lookNow(path);
    symlinkSync("2", join(root, "next"));
    renameSync(join(root, "next"), join(root, "current"));
    expect((await fileState.look(path))?.file).not.toBe(before?.file);
    expect(await fileState.look(join(root, "nothing"))).toBeNull();
  });
});
