/**
 * Options of JavaScriptCore, as variables of a process's environment (OptionsList.h in WebKit's runtime/). They are read before any code
 * runs, so a process can set them for another one alone. Bun ends at its start where it does not know one.
 */

/**
 * Keeps the engine from starting threads for compilation, garbage collection and zeroed memory. By default it starts such a thread
 * when it needs one, and aborts the process where the kernel refuses it: so a user who used up the node's process ids ended the proxy
 * (tried with Bun 1.4 and kernel.pid_max of a pid namespace). The options cost no measurable processor time.
 */
export const NO_LATER_THREADS: Readonly<Record<string, string>> = {
  BUN_JSC_useConcurrentJIT: "0",
  BUN_JSC_useConcurrentGC: "0",
  BUN_JSC_numberOfGCMarkers: "1",
  BUN_JSC_useWarmUpMarkedBlocks: "0",
};

/**
 * What the engine takes for the machine's memory, by which it decides how far the heap may grow from one collection to the next. By
 * default, on a machine with 16 GiB or more, that is to three times what is live; with this, to twice as long as that is less than
 * 32 MiB, and to 1.24 times from 64 MiB on (proportionalHeapSize() in WebKit's heap/Heap.cpp; tried with Bun 1.4). It is no limit.
 * What it brings and costs is in docs/benchmarks.md.
 */
export const HEAP_GROWTH: Readonly<Record<string, string>> = {
  BUN_JSC_forceRAMSize: String(128 * 1024 * 1024),
};
