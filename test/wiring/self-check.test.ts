import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { requireClosed } from "../../src/wiring/self-check.ts";

/** A configuration, with what leads to it; `open` is a directory in which everybody may write. */
describe("requireClosed() looks at everything on the way to the file:", () => {
  let root: string;
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "imdsproxy-closed-"));
    for (const name of ["closed", "closed/inner", "open", "open/inner"]) {
      mkdirSync(join(root, name));
      chmodSync(join(root, name), 0o755);
    }
    for (const name of ["closed", "closed/inner", "open"]) {
      writeFileSync(join(root, name, "config.yaml"), "");
      chmodSync(join(root, name, "config.yaml"), 0o644);
    }
    symlinkSync("closed/config.yaml", join(root, "to-closed.yaml"));
    symlinkSync("open/config.yaml", join(root, "to-open.yaml"));
    symlinkSync("closed", join(root, "folder"));
    // Whoever may write in `open` can have each of these lead elsewhere.
    symlinkSync("../closed/config.yaml", join(root, "open/link.yaml"));
    symlinkSync("../closed", join(root, "open/folder"));
    symlinkSync("open/link.yaml", join(root, "by-open.yaml"));
    symlinkSync("open/folder/config.yaml", join(root, "by-open-folder.yaml"));
    symlinkSync("by-open.yaml", join(root, "twice.yaml"));
    symlinkSync("open/../closed/config.yaml", join(root, "up.yaml"));
    chmodSync(join(root, "open"), 0o777);
  });
  afterAll(() => rmSync(root, { recursive: true }));

  test.each(["closed/config.yaml", "closed/inner/config.yaml", "to-closed.yaml", "folder/inner/config.yaml"])(
    "%s is closed",
    (name) => expect(() => requireClosed(join(root, name))).not.toThrow(),
  );
  test.each([
    ["open/config.yaml", "a file in a directory that others can write to"],
    ["to-open.yaml", "a link to one"],
    ["by-open.yaml", "a link to a link there, which leads back"],
    ["by-open-folder.yaml", "a link through a link of a directory there"],
    ["twice.yaml", "a link to a link to a link there"],
    ["up.yaml", "a link through that directory and up again"],
  ])("%s is not: %s", (name) =>
    expect(() => requireClosed(join(root, name))).toThrow(
      /lies below \S*\/open, and that can be changed by others: its mode is 777/,
    ),
  );
  test("a circle of links has an end", () => {
    symlinkSync("circle-b", join(root, "circle-a"));
    symlinkSync("circle-a", join(root, "circle-b"));
    expect(() => requireClosed(join(root, "circle-a"))).toThrow("more than 40 symbolic links");
  });
  test("a pipe, which is no file that can be read again", () => {
    const child = Bun.spawn(["sleep", "60"], { stdin: "pipe" });
    try {
      expect(() => requireClosed(`/proc/${child.pid}/fd/0`)).toThrow("leads to no file");
    } finally {
      child.kill();
    }
  });
});
