import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { FairSlots } from "../../src/platform/fair-slots.ts";
import { settle } from "../support/fake-clock.ts";
import { holdsAsync } from "../support/fuzz.ts";

describe("FairSlots", () => {
  test("serves every request once, and never more at once than allowed, in all and for one", async () => {
    await holdsAsync(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 6 }),
        fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 60 }),
        async (limit, owners) => {
          const slots = new FairSlots(limit);
          const running: { owner: number; release: () => void }[] = [];
          let served = 0;
          for (const owner of owners) {
            void slots.acquire(owner).then((release) => {
              served++;
              running.push({ owner, release });
            });
          }
          await settle();
          while (running.length > 0) {
            expect(running.length).toBeLessThanOrEqual(limit);
            expect(slots.inUse).toBe(running.length);
            for (const { owner } of running) {
              const own = running.filter((other) => other.owner === owner).length;
              expect(own).toBeLessThanOrEqual(Math.ceil(limit / 2));
            }
            running.shift()?.release();
            await settle();
          }
          expect(served).toBe(owners.length);
          expect(slots.inUse).toBe(0);
        },
      ),
      50,
    );
  });

  test("gives turns to owners in rotation", async () => {
    const slots = new FairSlots(1);
    const order: string[] = [];
    const work = async (owner: string, name: string) => {
      const release = await slots.acquire(owner);
      order.push(name);
      await settle();
      release();
    };
    await Promise.all([
      ...["a1", "a2", "a3", "a4"].map((name) => work("a", name)),
      ...["b1", "b2"].map((name) => work("b", name)),
      work("c", "c1"),
    ]);
    expect(order).toEqual(["a1", "a2", "b1", "c1", "a3", "b2", "a4"]);
  });

  test("says how many turns come before an owner's last one, whatever others ask for", async () => {
    await holdsAsync(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 40 }),
        async (owners) => {
          const slots = new FairSlots<number>(1);
          const release = await slots.acquire(99);
          const order: number[] = [];
          for (const owner of owners) {
            void slots.acquire(owner).then((done) => {
              order.push(owner);
              done();
            });
          }
          const said = [0, 1, 2, 3, 4].map((owner) => slots.turnsBefore(owner));
          release();
          while (slots.inUse > 0) await settle();
          expect(order).toHaveLength(owners.length);
          expect(said).toEqual(
            [0, 1, 2, 3, 4].map((owner) => (order.includes(owner) ? order.lastIndexOf(owner) : null)),
          );
        },
      ),
      50,
    );
  });
});

test("who leaves the queue has no turn, keeps nobody's from them, and is counted no more", () => {
  const slots = new FairSlots<string>(1, 1);
  const began: string[] = [];
  let end = () => {};
  const wait = (owner: string, name: string) =>
    slots.wait(owner, (release) => {
      began.push(name);
      end = release;
    });
  wait("alice", "first");
  const leave = wait("alice", "left");
  wait("alice", "second");
  const leaveAlone = wait("bob", "of bob");
  expect([slots.waiting, slots.turnsBefore("alice")]).toEqual([3, 2]);
  leave();
  leaveAlone();
  // A second time does nothing.
  leave();
  expect([slots.waiting, slots.turnsBefore("bob"), slots.turnsBefore("alice")]).toEqual([1, null, 0]);
  end();
  expect([began, slots.inUse, slots.waiting]).toEqual([["first", "second"], 1, 0]);
  end();
  expect(slots.inUse).toBe(0);
});
