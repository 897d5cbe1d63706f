import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allocatedRanges, canBeAllocated, isAllocated } from "../../src/identity/allocated-uids.ts";
import { parseSubordinateRanges, Shares } from "../../src/identity/shares.ts";

const directory = mkdtempSync(join(tmpdir(), "imdsproxy-allocated-"));
afterAll(() => rmSync(directory, { recursive: true }));

test("canBeAllocated() knows systemd's ranges of dynamic and of container uids", () => {
  for (const uid of [61_184, 65_519, 524_288, 1_879_048_191])
    expect([uid, canBeAllocated(uid)]).toEqual([uid, true]);
  for (const uid of [0, 1_000, 61_183, 65_520, 100_000, 524_287, 1_879_048_192])
    expect([uid, canBeAllocated(uid)]).toEqual([uid, false]);
});

test("a registered range has each of its uids, one that is registered alone has itself, and others none", () => {
  const registry = join(directory, "registry");
  expect(isAllocated(983_045, registry)).toBe(false);
  expect(allocatedRanges(registry)).toBe("");
  mkdirSync(join(registry, "o2001.owns"), { recursive: true });
  for (const name of ["lock", "i4026532.userns", "n2001-web.userns", "u983040.userns", "g983040.userns"])
    writeFileSync(join(registry, name), "");
  writeFileSync(join(registry, "u61200.userns"), "");
  writeFileSync(join(registry, "u1048576.delegate"), "");

  for (const uid of [983_040, 983_045, 1_048_575, 1_048_576, 1_114_111, 61_200])
    expect([uid, isAllocated(uid, registry)]).toEqual([uid, true]);
  for (const uid of [983_039, 1_114_112, 61_199, 61_201, 2_001])
    expect([uid, isAllocated(uid, registry)]).toEqual([uid, false]);

  const text = allocatedRanges(registry);
  expect(parseSubordinateRanges(text)).toEqual([
    { owner: "systemd-nsresourced", first: 61_200, last: 61_200 },
    { owner: "systemd-nsresourced", first: 983_040, last: 1_048_575 },
    { owner: "systemd-nsresourced", first: 1_048_576, last: 1_114_111 },
  ]);
  const shares = new Shares({ read: () => text, monotonicMs: () => 0 });
  expect(new Set([61_200, 983_045, 1_114_111].map((uid) => shares.of(uid))).size).toBe(1);
  expect(shares.of(61_201)).toBe(61_201);
});
