import { describe, expect, test } from "bun:test";
import { spawn } from "node:child_process";
import type { Probe } from "../../src/service/probe.ts";
import { readProbe } from "../../src/service/probe-answer.ts";
import { saidBy } from "../../src/service/said-by.ts";

/** A child that runs as a user, whose other processes stop it and change what it says. */

const ASKED = [{ address: "169.254.0.2", port: 9081 }];
const PROBE: Probe = {
  token: 200,
  list: { status: 200, text: "Lesser" },
  credentials: { status: 200, code: "Success", digest: "0123456789abcdef" },
  forbidden: null,
  direct: [{ endpoint: { address: "169.254.0.2", port: 9081 }, result: "closed", detail: "refused" }],
};
const said = (change: object) => readProbe(JSON.stringify({ ...PROBE, ...change }), ASKED);

describe("saidBy()", () => {
  const child = (script: string) => spawn("/bin/sh", ["-c", script], { stdio: ["pipe", "pipe", "pipe"] });
  const within = { limitMs: 40_000, mostLetters: 1_000 };

  test("has what it said, and how it ended", async () => {
    const found = await saidBy(child("echo one; echo two >&2; exit 3"), within);
    expect(found).toEqual({ text: "one\n", complaint: "two\n", exitCode: 3, late: false });
  });

  test("kills one that was stopped, at the end of its time", async () => {
    const found = await saidBy(child("kill -STOP $$"), { ...within, limitMs: 200 });
    expect(found).toEqual({ text: "", complaint: "", exitCode: null, late: true });
  });

  test("kills one that says without end", async () => {
    const found = await saidBy(child("exec cat /dev/zero"), within);
    expect([found.exitCode, found.late]).toEqual([null, false]);
  });
});

describe("readProbe()", () => {
  test("reads what a probe says", () => {
    expect(said({})).toEqual(PROBE);
  });

  const wrong: readonly [string, object][] = [
    ["a list that is none", { list: null }],
    ["a status that is text", { token: "200" }],
    ["credentials without a status", { credentials: {} }],
    ["a long text", { list: { status: 200, text: "x".repeat(501) } }],
    ["another number of attempts than was asked for", { direct: [] }],
    ["an attempt whose result is none", { direct: [{ ...PROBE.direct[0], result: "fine" }] }],
  ];
  for (const [what, change] of wrong) {
    test(`takes no probe with ${what}`, () => {
      expect(said(change)).toBeNull();
    });
  }
  test("takes nothing that is no JSON, or no object", () => {
    for (const text of ["", "null", "[]", "{", '"x"']) expect(readProbe(text, ASKED)).toBeNull();
  });
});
