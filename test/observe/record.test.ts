import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { ImdsProxyError } from "../../src/errors.ts";
import { checkDirectory, type Observed, readObserved, writeObserved } from "../../src/observe/record.ts";
import { named } from "./support.ts";

const observed: Observed = {
  node: "node1",
  runs: [
    { fromMs: 1, toMs: 2, missed: 3 },
    { fromMs: 4, toMs: 5, missed: 0, gap: true },
  ],
  callers: [
    named("alice"),
    named(null, { uid: null, container: "10.0.0.1", place: { kind: "bridge" } }),
    named("b\udc80b", { place: { kind: "unit", name: "x.service" }, categories: [["__proto__", 2]] }),
    named("c", {
      place: { kind: "container", runtime: "docker", id: "0123" },
      arguments: ["a"],
      jobs: ["1"],
    }),
  ],
};

let directory = "";
let path = "";
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-observed-"));
  path = join(directory, "observed.json");
});
afterEach(() => rmSync(directory, { recursive: true }));

const errorOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    if (error instanceof ImdsProxyError) return `${error.code}: ${error.problem}`;
    throw error;
  }
  return "none";
};

describe("the file of observe", () => {
  test("is read as it was written, by its owner alone, and no draft stays", () => {
    writeObserved(path, observed);
    expect(readObserved(path)).toEqual(observed);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    writeObserved(path, { ...observed, node: "node2" });
    expect(readObserved(path)?.node).toBe("node2");
    expect(readdirSync(directory)).toEqual(["observed.json"]);
  });
  test("is null where there is none", () => expect(readObserved(path)).toBeNull());
  const BROKEN: [what: string, text: string, found: string][] = [
    ["empty", "", "it is empty"],
    ["cut", '{"imdsproxyObserved":1,"no', "it is not JSON"],
    ["another program's", '{"runs":[]}', "imdsproxyObserved"],
    ["of a later version", '{"imdsproxyObserved":2}', "it has format 2, and this version reads 1"],
    [
      "with a wrong value",
      JSON.stringify({
        imdsproxyObserved: 1,
        ...observed,
        callers: [{ ...observed.callers[0], requests: -1 }],
      }),
      "callers.0.requests",
    ],
  ];
  for (const [what, text, found] of BROKEN) {
    test(`says what it found where it is ${what}, and leaves it alone`, () => {
      writeFileSync(path, text, { mode: 0o600 });
      const said = errorOf(() => readObserved(path));
      expect(said).toStartWith(`config: observe: ${path} is no file of observe's, or a broken one: `);
      expect(said).toContain(found);
      expect(readFileSync(path, "utf8")).toBe(text);
    });
  }
  test("is not believed where others can write it, or it is a link or a directory", () => {
    writeObserved(path, observed);
    chmodSync(path, 0o622);
    expect(errorOf(() => readObserved(path))).toContain("mode 622, so that others than root can write it");
    symlinkSync(path, join(directory, "link"));
    expect(errorOf(() => readObserved(join(directory, "link")))).toContain("is a symbolic link");
    mkdirSync(join(directory, "sub"));
    expect(errorOf(() => readObserved(join(directory, "sub")))).toContain("is not a regular file");
    expect(errorOf(() => writeObserved(join(directory, "link"), observed))).toContain(
      "is not a regular file",
    );
  });
  test("is not written below a directory that others can write, but for one with the sticky bit", () => {
    mkdirSync(join(directory, "open/inner"), { recursive: true });
    chmodSync(join(directory, "open"), 0o777);
    const inner = join(directory, "open/inner/observed.json");
    expect(errorOf(() => writeObserved(inner, observed))).toContain("can be written by others (mode 777)");
    chmodSync(join(directory, "open"), 0o1777);
    expect(errorOf(() => writeObserved(inner, observed))).toBe("none");
  });
  test("is not written below a directory of another user's", () => {
    const own = statSync(directory).uid;
    // Root's directories are good for everybody.
    expect(errorOf(() => checkDirectory(path, own + 1))).toMatch(own === 0 ? /^none$/ : /belongs to uid/);
    expect(errorOf(() => checkDirectory(join(homedir(), "no-such-directory-here/x")))).toContain(
      "there is no directory",
    );
  });
  test("keeps what was there where it cannot be written", () => {
    writeObserved(path, observed);
    mkdirSync(join(directory, `.observed.json.${process.pid}.new`));
    expect(errorOf(() => writeObserved(path, { ...observed, node: "node2" }))).toContain(
      `cannot write ${path}`,
    );
    expect(readObserved(path)?.node).toBe("node1");
    rmSync(join(directory, `.observed.json.${process.pid}.new`), { recursive: true });
  });
});
