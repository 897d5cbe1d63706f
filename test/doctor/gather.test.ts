import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { homesOf } from "../../src/doctor/gather/inputs.ts";
import { changeable } from "../../src/doctor/gather/node.ts";

describe("changeable()", () => {
  let directory: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "imdsproxy-doctor-"));
    mkdirSync(join(directory, "home"));
    writeFileSync(join(directory, "home/policy.yaml"), "");
    chmodSync(join(directory, "home/policy.yaml"), 0o664);
    symlinkSync("home/policy.yaml", join(directory, "config.yaml"));
    symlinkSync("config.yaml", join(directory, "twice.yaml"));
    symlinkSync("circle", join(directory, "circle"));
    symlinkSync("home", join(directory, "directory"));
  });
  afterAll(() => rmSync(directory, { recursive: true }));
  /** Of what was found in the directory: those above it are the machine's. */
  const found = (name: string) =>
    changeable([join(directory, name)]).filter((line) => line.startsWith(join(directory, "home/")));
  /** As root the mode is what is wrong with it; as another user it is the owner. */
  const said = [
    expect.stringMatching(/home\/policy\.yaml (?:can be written by others \(mode 664\)|belongs to uid \d+)$/),
  ];

  test("finds what others can write behind a link, which root follows as well", () => {
    expect(found("config.yaml")).toEqual(said);
    expect(found("twice.yaml")).toEqual(said);
  });
  test("finds it by a directory that is a link", () => {
    const through = changeable([join(directory, "directory/policy.yaml")]);
    expect(through.filter((line) => line.includes("policy.yaml"))).toHaveLength(1);
  });
  test("ends at links that lead to each other, and at what is not there", () => {
    expect(found("circle")).toEqual([]);
    expect(found("nothing")).toEqual([]);
  });
});

describe("homesOf()", () => {
  test("has each home once, without the tester's and without those that are nobody's", () => {
    const accounts = [
      "alice:/home/alice",
      "twin:/home/alice",
      "nobody:/nonexistent",
      "bin:/usr/bin",
      "me:/home/me",
    ];
    const { homes, gaps } = homesOf(
      "me",
      accounts.map((one) => ({ name: one.split(":")[0] ?? "", home: one.split(":")[1] ?? "" })),
    );
    expect([homes, gaps]).toEqual([[["/home/alice", "alice"]], []]);
  });
  test("says how many it leaves out", () => {
    const many = Array.from({ length: 2_005 }, (_, at) => ({ name: `u${at}`, home: `/home/u${at}` }));
    const { homes, gaps } = homesOf("me", many);
    expect([homes.length, gaps]).toEqual([2_000, ["the homes: only the first 2000 of 2005"]]);
  });
});
