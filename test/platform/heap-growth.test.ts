import { expect, test } from "bun:test";
import { HEAP_GROWTH, NO_LATER_THREADS } from "../../src/platform/engine-options.ts";

const GIB = 1024 ** 3;
/** Keeps 80,000 objects alive, of which it replaces one after the other, and prints the most bytes that the heap had. */
const PROGRAM = `
import { heapStats } from "bun:jsc";
const live = [];
for (let n = 0; n < 80_000; n++) live.push({ a: n, b: [n], c: "x" + n });
let most = 0;
for (let round = 0; round < 20; round++) {
  for (let n = 0; n < 50_000; n++) live[(n * 7919) % live.length] = { a: n, b: [n], c: "y" + n };
  most = Math.max(most, heapStats().heapCapacity);
}
console.log(most);
`;

function mostHeap(options: Readonly<Record<string, string>>): number {
  const env = { ...NO_LATER_THREADS, ...options };
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", PROGRAM], { env, stderr: "pipe" });
  const most = Number(stdout.toString());
  if (!(most > 0)) throw new Error(`no figure: ${stderr.toString()}`);
  return most;
}

test("the units' setting keeps the heap smaller than the engine lets it grow on a large machine", () => {
  expect(mostHeap(HEAP_GROWTH)).toBeLessThan(0.75 * mostHeap({ BUN_JSC_forceRAMSize: String(64 * GIB) }));
});
