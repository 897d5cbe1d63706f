import { describe, expect, test } from "bun:test";
import { type Notification, NotifyQueue } from "../../src/platform/systemd-notify.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** A queue of the kernel's with so many places. */
function aQueue(places: number) {
  const clock = new FakeClock();
  const sent: string[] = [];
  const kernel = { places };
  const queue = new NotifyQueue({
    clock,
    send({ state, descriptor }: Notification) {
      if (kernel.places === 0) return false;
      kernel.places--;
      sent.push(descriptor === null ? state : `${state} ${descriptor}`);
      return true;
    },
  });
  const say = (state: string, descriptor: number | null = null) => queue.add({ state, descriptor });
  return { clock, sent, kernel, queue, say };
}

describe("what systemd is told", () => {
  test("goes out at once where its queue has room", () => {
    const { sent, queue, say } = aQueue(10);
    say("FDSTORE=1", 7);
    say("READY=1");
    expect([sent, queue.waiting]).toEqual([["FDSTORE=1 7", "READY=1"], 0]);
  });

  test("waits without blocking while a user keeps the queue full, and goes out in order as soon as there is a place", async () => {
    const { clock, sent, kernel, say } = aQueue(0);
    say("FDSTORE=1", 7);
    say("READY=1");
    await clock.advance(10_000);
    expect(sent).toEqual([]);
    kernel.places = 1;
    await clock.advance(20);
    expect(sent).toEqual(["FDSTORE=1 7"]);
    say("STOPPING=1");
    kernel.places = 2;
    await clock.advance(20);
    expect(sent).toEqual(["FDSTORE=1 7", "READY=1", "STOPPING=1"]);
    expect(clock.pending).toBe(0);
  });

  test("of the watchdog's messages one waits, however long the queue is full", async () => {
    const { clock, sent, kernel, queue, say } = aQueue(0);
    for (let i = 0; i < 1_000; i++) {
      say("WATCHDOG=1");
      await clock.advance(20);
    }
    expect(queue.waiting).toBe(1);
    kernel.places = 100;
    await clock.advance(20);
    expect(sent).toEqual(["WATCHDOG=1"]);
  });

  test("a message that is said again after another one takes its effect last", async () => {
    const { clock, sent, kernel, say } = aQueue(0);
    say("FDSTOREREMOVE=1\nFDNAME=a");
    say("FDSTORE=1\nFDNAME=a", 7);
    say("FDSTOREREMOVE=1\nFDNAME=a");
    kernel.places = 10;
    await clock.advance(20);
    expect(sent).toEqual(["FDSTORE=1\nFDNAME=a 7", "FDSTOREREMOVE=1\nFDNAME=a"]);
  });
});
