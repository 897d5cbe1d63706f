import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync, openSync } from "node:fs";
import { writeAll } from "../../src/platform/write-all.ts";

/** A descriptor that can always be written to, for the wait. */
let descriptor: number;
beforeEach(() => {
  descriptor = openSync("/dev/null", "w");
});
afterEach(() => closeSync(descriptor));

const failing = (code: string): Error => Object.assign(new Error(code), { code });

test("all is written, however little is taken at a time, and whether it does not take anything for now", () => {
  let written = "";
  let turn = 0;
  const failure = writeAll(descriptor, "héllo wörld", (_, bytes, at) => {
    turn++;
    if (turn % 3 === 0) throw failing("EAGAIN");
    if (turn % 5 === 0) throw failing("EINTR");
    written += Buffer.from(bytes.subarray(at, at + 2)).toString("latin1");
    return Math.min(2, bytes.length - at);
  });
  expect([failure, Buffer.from(written, "latin1").toString()]).toEqual([null, "héllo wörld"]);
});

test.each(["ENOSPC", "EPIPE", "EBADF", "EIO"])("%s ends it, by its name", (code) => {
  let calls = 0;
  const failure = writeAll(descriptor, "text", () => {
    calls++;
    throw failing(code);
  });
  expect([failure, calls]).toEqual([code, 1]);
});

test("nothing is nothing", () => {
  expect(writeAll(-1, "")).toBeNull();
});
