import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  commit,
  discard,
  type FileChange,
  grant,
  recover,
  stage,
  stagedPath,
} from "../../src/service/transaction.ts";
import { describeAsRoot } from "../support/root.ts";

const TRANSACTION = join(import.meta.dir, "../../src/service/transaction.ts");

let directory: string;
let journal: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-transaction-"));
  journal = join(directory, "journal");
});
afterEach(() => rmSync(directory, { recursive: true }));

const change = (name: string, text: string, more: Partial<FileChange> = {}): FileChange => ({
  path: join(directory, name),
  content: { text },
  mode: 0o644,
  ...more,
});
const read = (name: string) => readFileSync(join(directory, name), "utf8");

describeAsRoot("a change of several files", () => {
  const changes = () => [change("a", "new a"), change("b", "new b", { mode: 0o755 }), change("c/d", "new d")];

  beforeEach(() => {
    writeFileSync(join(directory, "a"), "old a");
    writeFileSync(join(directory, "b"), "old b");
  });

  test("is all there after commit(), and nothing is left of the way", () => {
    stage(changes());
    expect([read("a"), read("b")]).toEqual(["old a", "old b"]);
    commit(journal, changes(), () => {});
    expect([read("a"), read("b"), read("c/d")]).toEqual(["new a", "new b", "new d"]);
    expect(statSync(join(directory, "b")).mode & 0o777).toBe(0o755);
    expect(readdirSync(directory).sort()).toEqual(["a", "b", "c"]);
    expect(readdirSync(join(directory, "c"))).toEqual(["d"]);
  });

  test("on a read-only file system it says so, and leaves nothing; where nothing is left behind, discard() changes nothing", () => {
    const child = Bun.spawnSync([
      ...["unshare", "--mount", "sh", "-euc"],
      `mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; exec "$2" -e "$3"`,
      ...["sh", directory, process.execPath],
      `const { discard, stage } = require(${JSON.stringify(TRANSACTION)});
       discard([${JSON.stringify(join(directory, "a"))}]);
       try { stage([{ path: ${JSON.stringify(join(directory, "a"))}, content: { text: "new" }, mode: 0o644 }]); }
       catch (error) { console.log(error.message); }`,
    ]);
    const said = child.stdout.toString();
    expect([child.exitCode, said, child.stderr.toString()]).toEqual([0, expect.any(String), ""]);
    expect(said).toContain("its file system is read-only; nothing was changed");
    expect(said).toContain(`findmnt -T ${directory}`);
    expect(readdirSync(directory).sort()).toEqual(["a", "b"]);
  });

  test("what stage() returns takes everything back, directories included", () => {
    stage(changes())();
    expect(readdirSync(directory).sort()).toEqual(["a", "b"]);
    expect([read("a"), read("b")]).toEqual(["old a", "old b"]);
  });

  test("before the journal is there, recover() changes nothing", () => {
    stage(changes());
    expect(recover(journal)).toEqual([]);
    expect([read("a"), read("b")]).toEqual(["old a", "old b"]);
  });

  // A power cut after any number of the moves.
  for (const moved of [0, 1, 2, 3]) {
    test(`recover() finishes what was cut off after ${moved} of 3 moves`, () => {
      stage(changes());
      const paths = changes().map(({ path }) => path);
      writeFileSync(journal, JSON.stringify(paths));
      for (const path of paths.slice(0, moved)) renameSync(stagedPath(path), path);
      expect(recover(journal)).toEqual(paths.slice(moved));
      expect([read("a"), read("b"), read("c/d")]).toEqual(["new a", "new b", "new d"]);
      expect(existsSync(journal)).toBe(false);
      expect(recover(journal)).toEqual([]);
    });
  }

  test("discard() takes away what stage() wrote and nobody committed, and nothing else", () => {
    stage(changes());
    discard(changes().map(({ path }) => path));
    discard(changes().map(({ path }) => path));
    expect(readdirSync(directory).sort()).toEqual(["a", "b", "c"]);
    expect([read("a"), read("b"), readdirSync(join(directory, "c"))]).toEqual(["old a", "old b", []]);
  });

  test("a journal that is none is not believed", () => {
    for (const text of ["{", '"/etc/passwd"', "[1]"]) {
      writeFileSync(journal, text);
      expect(() => recover(journal)).toThrow("is not a journal of setup");
    }
  });

  test("stage() that fails at a later file leaves none of them", () => {
    writeFileSync(join(directory, "file"), "");
    expect(() => stage([...changes(), change("file/x", "never")])).toThrow("nothing was changed");
    expect(readdirSync(directory).sort()).toEqual(["a", "b", "file"]);
  });

  test("a link in the place of a staged file is replaced, never followed", () => {
    const victim = join(directory, "victim");
    writeFileSync(victim, "untouched");
    symlinkSync(victim, stagedPath(join(directory, "a")));
    stage([change("a", "new a")]);
    expect(read("victim")).toBe("untouched");
  });

  test("grant() gives the service's files to its group, and no others", () => {
    const list = [change("a", "x", { mode: 0o640, forService: true }), change("b", "y")];
    stage(list);
    grant(list, 4242);
    commit(journal, list, () => {});
    expect([statSync(join(directory, "a")).gid, statSync(join(directory, "b")).gid]).toEqual([4242, 0]);
    expect(statSync(join(directory, "a")).mode & 0o777).toBe(0o640);
  });
});

describe("stagedPath()", () => {
  test("is in the same directory, so that a rename can move it", () => {
    expect(stagedPath("/usr/local/bin/x")).toStartWith("/usr/local/bin/x.");
  });
});
