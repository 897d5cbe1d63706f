import { expect, test } from "bun:test";
import fc from "fast-check";
import { SmallMap } from "../../src/platform/small-map.ts";
import { holds } from "../support/fuzz.ts";

test("a SmallMap is as a Map, whatever is done with it", () => {
  const key = fc.constantFrom(null, undefined, "", "a", "b", 0, 1);
  const step = fc.oneof(
    fc.record({ key, value: fc.constantFrom(null, undefined, 1, 2) }),
    fc.constant("clear" as const),
  );
  holds(
    fc.property(fc.array(step, { maxLength: 12 }), key, (steps, asked) => {
      const small = new SmallMap<unknown, unknown>();
      const map = new Map<unknown, unknown>();
      for (const one of steps) {
        if (one === "clear") {
          small.clear();
          map.clear();
        } else {
          small.set(one.key, one.value);
          map.set(one.key, one.value);
        }
        expect(small.get(asked)).toBe(map.get(asked));
        expect(small.size).toBe(map.size);
      }
    }),
    300,
  );
});
