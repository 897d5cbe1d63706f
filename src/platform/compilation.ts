/**
 * From now on, the just-in-time compiler compiles code as early as usual. The executable starts with a compiler that waits longer
 * (scripts/build.ts): most code of the start runs once, and compiling it took a quarter of the start's processor time
 * (docs/benchmarks.md).
 */
export function compileAsUsual(): void {
  Bun.unsafe.setJITPolicy(1);
}
