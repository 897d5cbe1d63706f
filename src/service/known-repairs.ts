/** Protection besides iptables, such as the routing rules. It talks to the kernel alone: it starts no process and waits for none. */
export interface Guard<Spec> {
  /** A line for each difference from what should be there; none where all is right. */
  problems(spec: Spec): readonly string[];
  /** Repairs it. */
  restore(spec: Spec): void;
  /** Clears away what users began while anything was missing. Takes some 20 ms, so it waits until nothing was repaired for a while. */
  settle?(spec: Spec): void;
}

/**
 * Restores the rules of iptables and then what each guard protects. The rules come first, because no user can delay their repair: the
 * lock of nf_tables belongs to this network namespace (commit_mutex in net/netfilter/nf_tables_api.c). A guard that looks at routing can
 * be delayed: its lock is shared by all namespaces (rtnl_mutex in net/core/rtnetlink.c), including those that users make for
 * themselves. A failure of one repair prevents no other.
 *
 * @param rules restores the rules, and returns a line for each difference.
 * @returns what all of them found.
 * @throws the first failure, once all have been tried.
 */
export function restoreKnown<Spec>(
  spec: Spec,
  rules: () => readonly string[],
  guards: readonly Guard<Spec>[],
): readonly string[] {
  const found: string[] = [];
  const failures: unknown[] = [];
  const attempt = (repair: () => readonly string[]): void => {
    try {
      found.push(...repair());
    } catch (error) {
      failures.push(error);
    }
  };
  attempt(rules);
  const wereRight = found.length === 0 && failures.length === 0;
  for (const guard of guards) {
    attempt(() => {
      const problems = guard.problems(spec);
      if (problems.length > 0) guard.restore(spec);
      return problems;
    });
  }
  // Whoever removed a guard's part may have removed the rules too, after they were checked. Then one repair and one line cover both.
  if (wereRight && found.length > 0) attempt(rules);
  if (failures.length > 0) throw failures[0];
  return found;
}
