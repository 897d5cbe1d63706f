import { readFileSync, statSync } from "node:fs";
import { isPassing } from "../errors.ts";
import type { AccountDatabase } from "./accounts.ts";
import { allocatedRanges, allocatorHasRun, isAllocated } from "./allocated-uids.ts";
import type { NameHelpers } from "./name-helpers.ts";
import { nameText } from "./name-text.ts";
import { parseNameSwitch } from "./nsswitch.ts";
import { parseSubordinateRanges, type SubordinateRange } from "./shares.ts";

/** The account database of this node: NSS through helper processes, and /etc/subuid, which is read directly. */

const SUBUID = "/etc/subuid";
const NSSWITCH = "/etc/nsswitch.conf";
const FILES = ["/etc/passwd", "/etc/group", SUBUID, NSSWITCH];

/**
 * The file's text as Latin-1, in which every byte is a character; empty where it cannot be read. Null where it cannot be read for now,
 * as where no descriptor is free.
 */
export type ReadText = (path: string) => string | null;

const read: ReadText = (path) => {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    return isPassing(error) ? null : "";
  }
};

/** A text that differs once the file has been changed or replaced. */
function stamp(path: string): string {
  try {
    const { ino, size, mtimeMs } = statSync(path);
    return `${ino}:${size}:${mtimeMs}`;
  } catch {
    return "-";
  }
}

/**
 * Reads /etc/subuid, with the ranges that are given away for user namespaces ({@link allocatedRanges}) as further lines. The
 * function returns the text at the first call and after a change, else null. A missing file reads as empty.
 */
export function subordinateFile(readText: ReadText = read): () => string | null {
  let seen: string | null = null;
  return () => {
    const allocated = allocatedRanges();
    const found = `${stamp(SUBUID)} ${allocated}`;
    if (found === seen) return null;
    const text = readText(SUBUID);
    // What was there before holds until it can be read.
    if (text === null) return null;
    seen = found;
    return `${text}\n${allocated}`;
  };
}

/** Parses a file again only where it has changed since the last call. */
function whenChanged<T>(path: string, readText: ReadText, parse: (text: string) => T): () => T {
  let seen: string | null = null;
  let parsed: T | undefined;
  return () => {
    const found = stamp(path);
    if (parsed === undefined || found !== seen) {
      const text = readText(path);
      // What was there before holds until it can be read.
      if (text === null) return parsed ?? parse("");
      seen = found;
      parsed = parse(text);
    }
    return parsed;
  };
}

export function nameDatabase(helpers: NameHelpers, readText: ReadText = read): AccountDatabase {
  const ranges = whenChanged<readonly SubordinateRange[]>(SUBUID, readText, parseSubordinateRanges);
  const services = whenChanged(NSSWITCH, readText, parseNameSwitch);
  let isAllocator = allocatorHasRun();
  return {
    byUid: (uid, before) => helpers.byUid(uid, { before }),
    byName: (user, hurry) => helpers.byName(user, { hurry }),
    ownersInFile(uid) {
      const owners = ranges().filter(({ first, last }) => uid >= first && uid <= last);
      return [...new Set(owners.map(({ owner }) => nameText(Buffer.from(owner, "latin1"))))];
    },
    ownersService: () => services().subid,
    ownersByService: (service, uid) => helpers.owners(service, uid),
    isAllocated: (uid) => isAllocator && isAllocated(uid),
    fingerprint() {
      isAllocator = allocatorHasRun();
      return FILES.map(stamp).join(" ");
    },
  };
}
