import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, closeSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beginningOf, mayUse, walkTo } from "../../src/platform/careful-path.ts";

describe("walkTo()", () => {
  let home = "";
  beforeAll(() => {
    home = mkdtempSync(join(tmpdir(), "imdsproxy-walk-"));
    mkdirSync(join(home, ".aws"));
    writeFileSync(join(home, ".aws/credentials"), "0123456789", { mode: 0o644 });
    writeFileSync(join(home, "file"), "");
    symlinkSync("/etc/passwd", join(home, "link"));
    symlinkSync("/etc", join(home, "linked"));
    // As a user's home is: what is in it, others than root can change.
    chmodSync(home, 0o777);
  });
  afterAll(() => rmSync(home, { recursive: true }));
  const avoidNone = () => null;
  const kindOf = (path: string, avoid: (path: string) => string | null = avoidNone) => {
    const place = walkTo(path, avoid);
    if (place.kind === "there") closeSync(place.descriptor);
    return place.kind;
  };

  test("finds a file, its beginning and what may be done with it", () => {
    const place = walkTo(join(home, ".aws/credentials"), avoidNone);
    if (place.kind !== "there") throw new Error(place.kind);
    expect(place.stat.isFile()).toBe(true);
    expect(mayUse(place.descriptor, "read")).toBe(true);
    expect(beginningOf(place.descriptor, 4)).toBe("0123");
    closeSync(place.descriptor);
  });

  test("says where nothing is, also below what is no directory", () => {
    expect(kindOf(join(home, "none/at/all"))).toBe("absent");
    expect(kindOf(join(home, "file/below"))).toBe("absent");
  });

  test("follows no link that others than root could change, at the end or on the way", () => {
    expect(walkTo(join(home, "link"), avoidNone)).toEqual({ kind: "link", at: join(home, "link") });
    expect(walkTo(join(home, "linked/passwd"), avoidNone)).toEqual({
      kind: "link",
      at: join(home, "linked"),
    });
  });

  test("follows root's own links, such as /var/run", () => {
    expect(kindOf("/proc/self/../../etc/passwd")).toBe("there");
    expect(kindOf("/bin/sh")).toBe("there");
  });

  test("does not enter what is to be avoided", () => {
    const avoid = (path: string) => (path === join(home, ".aws") ? "nfs4" : null);
    expect(walkTo(join(home, ".aws/credentials"), avoid)).toEqual({
      kind: "mount",
      at: join(home, ".aws"),
      type: "nfs4",
    });
    expect(kindOf(join(home, "file"), avoid)).toBe("there");
  });

  test("reads nothing of a directory", () => {
    const place = walkTo(home, avoidNone);
    if (place.kind !== "there") throw new Error(place.kind);
    expect(beginningOf(place.descriptor, 4)).toBe("");
    closeSync(place.descriptor);
  });
});
