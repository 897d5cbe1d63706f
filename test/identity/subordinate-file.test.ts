import { expect, test } from "bun:test";
import { nameDatabase, type ReadText, subordinateFile } from "../../src/identity/name-database.ts";
import type { NameHelpers } from "../../src/identity/name-helpers.ts";

/** Files that cannot be read until `isFree`. */
function someFiles() {
  const state = { isFree: false };
  const readText: ReadText = (path) =>
    state.isFree ? (path === "/etc/subuid" ? "alice:3000000000:65536\n" : "") : null;
  return { state, readText };
}

test("subordinate uids that could not be read for a moment are read again, for the limits", () => {
  const { state, readText } = someFiles();
  const look = subordinateFile(readText);
  look();
  state.isFree = true;
  expect(look()).toContain("alice:3000000000:65536");
  expect(look()).toBeNull();
});

test("and for who their owner is; what was known holds meanwhile", () => {
  const { state, readText } = someFiles();
  const database = nameDatabase({} as NameHelpers, readText);
  expect(database.ownersInFile(3_000_000_001)).toEqual([]);
  state.isFree = true;
  expect(database.ownersInFile(3_000_000_001)).toEqual(["alice"]);
  state.isFree = false;
  expect(database.ownersInFile(3_000_000_001)).toEqual(["alice"]);
});

test("an owner whose name is not ASCII is asked for by the text that all names are", () => {
  const file = Buffer.from("josé:3000000000:65536\n").toString("latin1");
  const database = nameDatabase({} as NameHelpers, (path) => (path === "/etc/subuid" ? file : ""));
  expect(database.ownersInFile(3_000_000_005)).toEqual(["josé"]);
});
