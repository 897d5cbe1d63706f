import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { replaceFile } from "../../src/platform/replace-file.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "imdsproxy-replace-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const SIZE = 200_000;
const ROUNDS = 6;

test("replaceFile() leaves the old bytes or the new ones, whenever it is killed", async () => {
  const path = join(directory, "file");
  const options = { mode: 0o640, gid: process.getgid?.() ?? 0 };
  replaceFile(path, Buffer.alloc(SIZE, "a"), options);
  const program = `
    const { replaceFile } = require(${JSON.stringify(resolve("src/platform/replace-file.ts"))});
    process.stdout.write("begun\\n");
    for (let i = 0; ; i++) replaceFile(${JSON.stringify(path)}, Buffer.alloc(${SIZE}, "ab"[i % 2]), ${JSON.stringify(options)});
  `;
  for (let round = 0; round < ROUNDS; round++) {
    const child = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe" });
    await child.stdout.getReader().read();
    // Anywhere within some rounds of writing; no result depends on where.
    await Bun.sleep(round * 1.7);
    child.kill("SIGKILL");
    await child.exited;
    const found = readFileSync(path, "utf8");
    expect([found.length, new Set(found).size]).toEqual([SIZE, 1]);
  }
  replaceFile(path, Buffer.from("after"), options);
  expect([readFileSync(path, "utf8"), readdirSync(directory)]).toEqual(["after", ["file"]]);
});

test("replaceFile() leaves the old file and no draft where the new one cannot be written", () => {
  const path = join(directory, "file");
  expect(() => replaceFile(path, Buffer.from("x"), { mode: 0o640, gid: -2 })).toThrow();
  expect([readFileSync(path, "utf8"), readdirSync(directory)]).toEqual(["after", ["file"]]);
});
