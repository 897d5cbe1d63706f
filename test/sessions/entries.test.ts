import { expect, test } from "bun:test";
import fc from "fast-check";
import { Entries } from "../../src/sessions/entries.ts";
import { type Entry, newEntry } from "../../src/sessions/entry.ts";
import { holds } from "../support/fuzz.ts";
import { aRequest } from "./support.ts";

const MOST = 6;
const MOST_PER_OWNER = 3;

/** What is expected of Entries, by a list: the least recently used entry is the first. */
class Model {
  list: Entry[] = [];

  crowdedOut(owner: unknown): Entry | "room" | "full" {
    const of = (one: unknown) => this.list.filter((entry) => entry.owner === one);
    const oldest = (isAmong: (entry: Entry) => boolean) =>
      this.list.find((entry) => !entry.inFlight && entry.waiters === null && isAmong(entry)) ?? "full";
    if (of(owner).length >= MOST_PER_OWNER) return oldest((entry) => entry.owner === owner);
    if (this.list.length < MOST) return "room";
    const most = Math.max(...this.list.map((entry) => of(entry.owner).length));
    return oldest((entry) => of(entry.owner).length === most);
  }
}

const step = fc.record({
  what: fc.constantFrom("use", "use", "use", "remove", "begin", "end"),
  key: fc.nat({ max: 11 }),
});

test("keeps the entries that a list of the most recently used would keep, of each owner and of all, in any order of use", () => {
  holds(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const entries = new Entries(MOST, MOST_PER_OWNER);
      const model = new Model();
      for (const { what, key } of steps) {
        const known = entries.get(`${key}`);
        expect(known).toBe(model.list.find((entry) => entry.key === `${key}`));
        if (what === "use" && known !== undefined) {
          entries.touch(known);
          model.list = [...model.list.filter((entry) => entry !== known), known];
        } else if (what === "use") {
          // Three owners, whose keys are 0, 3, 6 …, 1, 4, 7 … and 2, 5, 8 …
          const owner = key % 3;
          const evicted = entries.crowdedOut(owner);
          expect(evicted).toBe(model.crowdedOut(owner));
          if (typeof evicted !== "string") entries.remove(evicted);
          model.list = model.list.filter((entry) => entry !== evicted);
          if (evicted === "full") continue;
          const entry = newEntry(`${key}`, aRequest(), owner);
          entries.add(entry);
          model.list.push(entry);
        } else if (known !== undefined && what === "remove") {
          entries.remove(known);
          // A second time changes nothing.
          entries.remove(known);
          model.list = model.list.filter((entry) => entry !== known);
        } else if (known !== undefined) known.inFlight = what === "begin";
        expect([...entries.all()]).toEqual(model.list);
        expect(entries.size).toBe(model.list.length);
      }
    }),
    2_000,
  );
});
