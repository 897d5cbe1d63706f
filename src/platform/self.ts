/** Where Bun shows the files of a compiled executable (`bun build --compile`). */
const COMPILED_ROOT = "/$bunfs";

/** This executable, or null where the program runs from source. */
export function compiledExecutable(): string | null {
  return import.meta.dir.startsWith(COMPILED_ROOT) ? process.execPath : null;
}

/** This program, as a command line: the executable, or Bun with the source. */
export function selfCommand(): string[] {
  const executable = compiledExecutable();
  return executable === null ? [process.execPath, `${import.meta.dir}/../main.ts`] : [executable];
}
