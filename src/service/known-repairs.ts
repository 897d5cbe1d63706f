/** Protection besides iptables, such as the routing rules. It uses only the kernel: no process and no waiting for one. */
export interface Guard<Spec> {
  /** A line for each thing that is wrong; none where all is right. */
  problems(spec: Spec): readonly string[];
  /** Repairs it. */
  restore(spec: Spec): void;
}

/**
 * Restores the rules of iptables and then what each guard protects. The rules come first, because nothing that a user does can keep the
 * kernel's nf_tables of this network namespace busy: its lock belongs to the namespace (commit_mutex in net/netfilter/nf_tables_api.c).
 * A guard that looks at routing waits for a lock which all namespaces share (rtnl_mutex in net/core/rtnetlink.c), a user's own included.
 * A failure of one prevents no other repair.
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
  // Whoever took that may have taken the rules as well, after the look at them: then they are part of the same repair and its line.
  if (wereRight && found.length > 0) attempt(rules);
  if (failures.length > 0) throw failures[0];
  return found;
}
