import { describe, expect, test } from "bun:test";
import { BoundedOutput } from "../../src/platform/bounded-output.ts";

/** A reader who takes so many bytes and then none, until more is allowed. */
function aReader(room: number) {
  const reader = { room, text: "" };
  const write = (bytes: Uint8Array): number => {
    if (reader.room < 0) return -1;
    const taken = Math.min(bytes.length, reader.room);
    reader.text += Buffer.from(bytes.subarray(0, taken)).toString();
    reader.room -= taken;
    return taken;
  };
  return { reader, write };
}

const open = (write: (bytes: Uint8Array) => number, mostBytes = 100) =>
  new BoundedOutput({ write, lostLine: (lines) => `lost ${lines}\n`, mostBytes });

describe("BoundedOutput", () => {
  test("writes at once what can be written", () => {
    const { reader, write } = aReader(1_000);
    const output = open(write);
    output.write("one\n");
    output.write("two\n");
    expect([reader.text, output.waitingBytes]).toEqual(["one\ntwo\n", 0]);
  });

  test("keeps a bounded number of bytes of a hundred thousand lines, and says how many are lost when it can", () => {
    const { reader, write } = aReader(0);
    const output = open(write);
    for (let i = 0; i < 100_000; i++) output.write("0123456789abcdef\n");
    expect(output.waitingBytes).toBeLessThanOrEqual(100);
    reader.room = 10_000;
    output.flush();
    expect(reader.text).toBe(`${"0123456789abcdef\n".repeat(5)}lost 99995\n`);
    output.write("after\n");
    expect(reader.text).toEndWith("lost 99995\nafter\n");
    expect(output.waitingBytes).toBe(0);
  });

  test("lines stay whole where a part of one was written", () => {
    const { reader, write } = aReader(6);
    const output = open(write);
    for (const line of ["first\n", "second\n", "third\n"]) output.write(line);
    reader.room = 3;
    output.flush();
    reader.room = 100;
    output.write("fourth\n");
    expect(reader.text).toBe("first\nsecond\nthird\nfourth\n");
  });

  test("keeps nothing for one who has gone", () => {
    const { write } = aReader(-1);
    const output = open(write);
    for (let i = 0; i < 1_000; i++) output.write("line\n");
    expect(output.waitingBytes).toBe(0);
  });

  test("tries again by itself", async () => {
    const { reader, write } = aReader(0);
    const output = open(write);
    output.write("late\n");
    reader.room = 100;
    while (output.waitingBytes > 0) await Bun.sleep(10);
    expect(reader.text).toBe("late\n");
  });
});
