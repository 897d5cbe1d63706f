/**
 * A glob over a cgroup's path: `*` is any run of characters within one segment, `**` any run at all, `?` one character of a
 * segment; every other character stands for itself. The glob must match the whole path.
 *
 * Matched by simulating a nondeterministic automaton, in time proportional to both lengths. A backtracking matcher takes
 * exponential time on a pattern with several stars, and users choose the names of their own cgroups.
 */
export function compileGlob(glob: string): (path: string) => boolean {
  const parts = glob.match(/\*\*|./gs) ?? [];
  return (path) => {
    // states[i]: whether the first i parts match what was read so far.
    let states = [true, ...parts.map(() => false)];
    closeOverStars(states, parts);
    for (let at = 0; at < path.length; at++) {
      const letter = path[at];
      const next = states.map(() => false);
      for (let i = 0; i < parts.length; i++) {
        if (states[i] !== true) continue;
        const part = parts[i];
        if (part === "**" || (part === "*" && letter !== "/")) next[i] = true;
        else if (part === letter || (part === "?" && letter !== "/")) next[i + 1] = true;
      }
      closeOverStars(next, parts);
      states = next;
    }
    return states[parts.length] === true;
  };
}

/** A star also matches the empty text. */
function closeOverStars(states: boolean[], parts: readonly string[]): void {
  for (let i = 0; i < parts.length; i++) {
    if (states[i] === true && (parts[i] === "*" || parts[i] === "**")) states[i + 1] = true;
  }
}
