/**
 * The systemd unit of a cgroup's path: `/system.slice/cron.service` is `cron.service`, and so is each cgroup below it. systemd
 * makes the path of the unit's slices and then its own name (systemd.slice(5), "systemd.resource-control(5)" `Slice=`).
 */

/** Users make cgroups below this path: logind's sessions and their own managers (systemd.special(7), user.slice). */
const USERS = "/user.slice/";

/**
 * The system service in which a process with this cgroup is, such as `slurmd.service`; null where it is in none.
 *
 * Nothing below `user.slice` counts: a user's own manager makes units of any name there. Neither does what is below any other directory
 * that a user may write, such as a slice that root gave away with chown(1) or cgcreate(1). What a service makes below its own
 * cgroup does not count either: {@link unitOf} takes the first unit of the path that is no slice. Scopes are no services: their names are
 * chosen by whoever asks systemd for them.
 *
 * @param path the path below the mount of cgroup v2, as `Identity.cgroup` has it; null where it is not known.
 * @param writable the topmost directory of the path in which a user can make others, as `Identity.writableCgroup` has it. Root
 *   made that one, and so chose its name. Default: none.
 */
export function systemUnitOf(path: string | null, writable?: string): string | null {
  if (path === null || path.startsWith(USERS)) return null;
  const unit = unitOf(path);
  if (unit?.endsWith(".service") !== true) return null;
  return writable !== undefined && unitOf(writable) === null ? null : unit;
}

/**
 * The unit of systemd that a cgroup belongs to: the first directory below the slices (cg_path_get_unit() in systemd's
 * src/basic/cgroup-util.c). Below a user's own manager that is `user@UID.service`, whatever units the user has in it. Null where
 * there is none. It is evidence for people; rules go by {@link systemUnitOf}, which counts no unit whose name a user may have chosen.
 */
export function unitOf(path: string | null): string | null {
  const unit = path?.split("/").find((part) => part !== "" && !part.endsWith(".slice"));
  if (unit === undefined) return null;
  // An underscore in front keeps the name apart from the kernel's own files there (cg_escape()).
  return /^_?([^/]+\.(?:service|scope|mount|socket|swap))$/.exec(unit)?.[1] ?? null;
}
