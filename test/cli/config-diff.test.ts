import { expect, test } from "bun:test";
import { accountUids } from "../../src/cli/config-diff.ts";

const line = (uid: number | string, name = `u${uid}`) => `${name}:x:${uid}:100::/home/${name}:/bin/sh\n`;

test("config diff compares each uid of getent's list once, and nothing that is no uid", () => {
  const passwd = [
    line(0, "root"),
    line(2001),
    line(2001, "twin"),
    line("x"),
    line(12345678901),
    "broken\n",
  ].join("");
  expect(accountUids(passwd)).toEqual({ uids: [0, 2001], leftOut: 0 });
});

test("config diff says how many accounts it leaves out of a directory that lists more than it compares", () => {
  const passwd = Array.from({ length: 10_003 }, (_, at) => line(at)).join("");
  const { uids, leftOut } = accountUids(passwd);
  expect([uids.length, uids.at(-1), leftOut]).toEqual([10_000, 9_999, 3]);
});
