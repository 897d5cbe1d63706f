/**
 * From now on, code is compiled as soon as usual. The executable starts with a just-in-time compiler that waits longer (scripts/build.ts),
 * because most code of the start runs once: to compile it took a quarter of the processor time of the start (docs/benchmarks.md).
 */
export function compileAsUsual(): void {
  Bun.unsafe.setJITPolicy(1);
}
