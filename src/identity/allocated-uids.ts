import { existsSync, readdirSync, readlinkSync } from "node:fs";

/**
 * Uids that every user can get for a while. systemd-nsresourced(8) (systemd 256 and newer) gives a range of 65,536 uids, or a
 * single uid, to every user who asks, for a user namespace. newuidmap(1) and /etc/subuid are not involved. nss-systemd(8) gives
 * each of these uids a name, such as `ns-2001-web-5`. Before it gives a range away, systemd-nsresourced checks only the first
 * uid, so the others can be those of accounts in a directory (allocate_now() in src/nsresourced/nsresourcework.c).
 *
 * A file registers each range. It exists before the uids can be used, and until the namespace has ended (userns_registry_store()
 * in src/nsresourced/userns-registry.c).
 */

const REGISTRY = "/run/systemd/nsresource/registry";
const SOCKET = "/run/systemd/io.systemd.NamespaceResource";
const PROGRAM = "/usr/lib/systemd/systemd-nsresourced";
const SOCKET_UNIT = "/etc/systemd/system/systemd-nsresourced.socket";

/** CONTAINER_UID_BASE_MIN, and the last uid of the last range (docs/UIDS-GIDS.md of systemd). */
const CONTAINER_MIN = 524_288;
const CONTAINER_MAX = 1_879_048_191;
const RANGE = 65_536;
/** DYNAMIC_UID_MIN, DYNAMIC_UID_MAX */
const DYNAMIC_MIN = 61_184;
const DYNAMIC_MAX = 65_519;

/** Stands for the owner of these uids, where other uids have an owner in /etc/subuid. */
export const ALLOCATOR = "systemd-nsresourced";

const isContainer = (uid: number) => uid >= CONTAINER_MIN && uid <= CONTAINER_MAX;

/** Whether systemd-nsresourced can give this uid away. Pure. */
export const canBeAllocated = (uid: number): boolean =>
  isContainer(uid) || (uid >= DYNAMIC_MIN && uid <= DYNAMIC_MAX);

/** The first uid of the range that a uid belongs to. Pure. */
const firstOf = (uid: number): number => (isContainer(uid) ? uid - (uid % RANGE) : uid);

/** Whether systemd-nsresourced is on this node, and not masked. */
export function allocatorHere(): boolean {
  if (!existsSync(PROGRAM)) return false;
  try {
    return readlinkSync(SOCKET_UNIT) !== "/dev/null";
  } catch {
    return true;
  }
}

/** Whether systemd-nsresourced runs, or has run since the boot. */
export const allocatorHasRun = (): boolean => existsSync(SOCKET) || existsSync(REGISTRY);

/** Whether a uid is given away now. @param registry default: the one of this node. */
export function isAllocated(uid: number, registry = REGISTRY): boolean {
  if (!canBeAllocated(uid)) return false;
  const path = `${registry}/u${firstOf(uid)}`;
  return existsSync(`${path}.userns`) || existsSync(`${path}.delegate`);
}

/** The ranges that are given away now, as lines of subuid(5) whose owner is {@link ALLOCATOR}; in order. */
export function allocatedRanges(registry = REGISTRY): string {
  let names: string[];
  try {
    names = readdirSync(registry);
  } catch {
    // Nobody has asked for one since the boot.
    return "";
  }
  const firsts = new Set<number>();
  for (const name of names) {
    const [, first] = /^u(\d{1,10})\.(?:userns|delegate)$/.exec(name) ?? [];
    if (first !== undefined) firsts.add(Number(first));
  }
  return [...firsts]
    .sort((a, b) => a - b)
    .map((first) => `${ALLOCATOR}:${first}:${isContainer(first) ? RANGE : 1}\n`)
    .join("");
}
