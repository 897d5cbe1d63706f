/** What we know of the caller from the kernel and NSS. */
export interface Identity {
  /** The uid in the initial user namespace that owns the caller's socket; null for a container, which has none. */
  readonly uid: number | null;
  /** The address of a bridged container, or null for a process of this node. */
  readonly container: string | null;
  /** The account's name, or null for a uid without one. A subordinate uid has the name of its owner. */
  readonly user: string | null;
  /** True where the uid is not the account's own but one of its range in /etc/subuid. */
  readonly subordinate: boolean;
  /** The uid of the owner of a subordinate uid. */
  readonly ownerUid?: number;
  /** Names of all groups of the account; may hold spaces. */
  readonly groups: readonly string[];
  /** Why NSS cannot tell the account's name for now. `user` is then null and `groups` empty, and both are meaningless. */
  readonly userUnavailable?: string;
  /** Why NSS cannot tell all groups for now; `groups` has those that are known. */
  readonly groupsUnavailable?: string;
  /** Path of the caller's cgroup v2 below the mount, such as `/user.slice/user-1000.slice`, or null where unknown. */
  readonly cgroup: string | null;
  /** The topmost directory of this path in which a user can make cgroups of any name; absent where there is none, or none is known. */
  readonly writableCgroup?: string;
  /** The Slurm job whose cgroup the caller is in, or null. */
  readonly slurmJobId: string | null;
  /** Why it cannot be told whether the caller is in a Slurm job; `slurmJobId` is then null, and meaningless. */
  readonly jobUnknown?: string;
}

/** An identity of which nothing is known: the base for identities that no look-up made. */
export const UNKNOWN_IDENTITY: Identity = {
  uid: null,
  container: null,
  user: null,
  subordinate: false,
  groups: [],
  cgroup: null,
  slurmJobId: null,
};
