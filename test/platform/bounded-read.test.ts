import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beginningOfFile } from "../../src/bounded-read.ts";
import { textIfAny } from "../../src/platform/text-file.ts";

const directory = mkdtempSync(join(tmpdir(), "text-file-"));
const path = join(directory, "file");
afterAll(() => rmSync(directory, { recursive: true }));

describe("beginningOfFile()", () => {
  test("is no longer than was asked for, of a file without end as well", () => {
    writeFileSync(path, "0123456789");
    expect(beginningOfFile(path, 4).toString()).toBe("0123");
    expect(beginningOfFile(path, 10).toString()).toBe("0123456789");
    expect(beginningOfFile(path, 100).toString()).toBe("0123456789");
    expect(beginningOfFile("/dev/zero", 70_000)).toHaveLength(70_000);
  });
  test("is a whole file of the kernel's, which it gives in pieces", () => {
    expect(beginningOfFile("/proc/self/limits", 100_000).toString()).toBe(
      textIfAny("/proc/self/limits") ?? "",
    );
  });
  test("throws where the file is not there", () => {
    expect(() => beginningOfFile(join(directory, "none"), 4)).toThrow("ENOENT");
  });
});
