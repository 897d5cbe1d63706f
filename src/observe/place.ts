import { slurmCgroupOf } from "../identity/slurm-cgroup.ts";
import { unitOf } from "../identity/unit.ts";
import { plainText } from "./plain-text.ts";

/**
 * Where a process runs, by its cgroup. Only the part of a path that root makes is trusted: below their own slice, and below a unit,
 * users can make cgroups of any name. Pure.
 */
export type Place =
  /** A system unit. */
  | { readonly kind: "unit"; readonly name: string }
  /** A Slurm job. */
  | { readonly kind: "slurm" }
  /** A container that runs with the host's network, by the name of its cgroup. */
  | { readonly kind: "container"; readonly runtime: string; readonly id: string }
  /** A container behind a bridge, which has no uid here. */
  | { readonly kind: "bridge" }
  /** A session of logind's. */
  | { readonly kind: "login" }
  /** A user's own manager: user units, rootless containers, what was started by `systemd-run --user`. */
  | { readonly kind: "user" }
  | { readonly kind: "unknown" };

export const PLACE_KINDS = ["unit", "slurm", "container", "bridge", "login", "user", "unknown"] as const;

const LONGEST_NAME = 80;
const ID_DIGITS = 12;

/** `docker-<64 hex digits>.scope`, `libpod-…`, `cri-containerd-…`, as the runtimes' systemd drivers name them. */
const SCOPE_OF_CONTAINER = /^(docker|libpod|cri-containerd|crio)-([0-9a-f]{12,64})\.scope$/;
/** `/docker/<64 hex digits>`, as the cgroupfs driver names them; `/lxc.payload.NAME` of LXC and LXD. */
const DIRECTORY_OF_CONTAINER = /^\/(docker|libpod_parent)\/(?:libpod-)?([0-9a-f]{12,64})(?:\/|$)/;
const LXC = /^\/lxc\.payload\.([^/]+)(?:\/|$)/;
/** `session-3.scope`, `user@1000.service` (systemd-logind(8), user@.service(5)). */
const USER_SLICE = /^\/user\.slice\/user-\d+\.slice(?:\/([^/]+))?/;
const POD = /^\/kubepods/;

/** The place of a path below the cgroup mount; null is unknown. */
export function placeOf(path: string | null): Place {
  if (path === null) return { kind: "unknown" };
  if (slurmCgroupOf(path) !== null) return { kind: "slurm" };
  const user = USER_SLICE.exec(path);
  if (user !== null) return { kind: user[1]?.startsWith("session-") === true ? "login" : "user" };
  const container = (runtime = "", id = ""): Place => ({
    kind: "container",
    runtime,
    id: plainText(/^[0-9a-f]+$/.test(id) ? id.slice(0, ID_DIGITS) : id, LONGEST_NAME),
  });
  const directory = DIRECTORY_OF_CONTAINER.exec(path);
  if (directory !== null) return container(directory[1]?.replace("libpod_parent", "libpod"), directory[2]);
  const lxc = LXC.exec(path);
  if (lxc !== null) return container("lxc", lxc[1]);
  const parts = path.split("/").filter(Boolean);
  if (POD.test(path)) return container("kubernetes", parts.at(-1));
  // The first part that is no slice. Below it, the unit itself or a user to whom it delegates can make cgroups.
  const first = parts.find((part) => !part.endsWith(".slice")) ?? "";
  const scope = SCOPE_OF_CONTAINER.exec(first);
  if (scope !== null) return container(scope[1], scope[2]);
  const unit = unitOf(path);
  return unit === null ? { kind: "unknown" } : { kind: "unit", name: plainText(unit, LONGEST_NAME) };
}

/** The place in a few words, for a table. */
export function placeText(place: Place): string {
  switch (place.kind) {
    case "unit":
      return place.name;
    case "slurm":
      return "Slurm job";
    case "container":
      return `${place.runtime} ${place.id}`;
    case "bridge":
      return "container";
    case "login":
      return "login session";
    case "user":
      return "user manager";
    case "unknown":
      return "unknown";
  }
}
