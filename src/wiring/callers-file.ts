import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { open, rename } from "node:fs/promises";
import { uptime } from "node:os";
import type { RecentCaller } from "../imds/recent-callers.ts";

/**
 * Keeps the callers who asked for credentials last over a restart of the proxy, in `callers.json` of the state directory:
 * uids, cgroup ids and times, nothing else. The file is only a hint, since the rules decide anew about each caller. A file
 * that cannot be read or is malformed counts as none.
 */

const FILE = "callers.json";
const MOST_BYTES = 65_536;
const MOST_CALLERS = 256;
/**
 * Seconds by which two estimates of the boot time may differ. (The service cannot read the boot_id in /proc/sys, because of
 * ProcSubset=pid.) Where the clock was set in between, the file is ignored.
 */
const SAME_BOOT_SECONDS = 60;

const bootedAt = (nowMs: number): number => Math.round(nowMs / 1000 - uptime());

/** The callers of this boot who asked since then; none where the file is missing, malformed, or of another account. */
export function readCallers(stateDirectory: string, nowMs: number, sinceMs: number): RecentCaller[] {
  try {
    const found = JSON.parse(readOwn(`${stateDirectory}/${FILE}`)) as { bootedAt: unknown; callers: unknown };
    const { bootedAt: booted, callers } = found;
    if (typeof booted !== "number" || Math.abs(booted - bootedAt(nowMs)) > SAME_BOOT_SECONDS) return [];
    if (!Array.isArray(callers) || callers.length > MOST_CALLERS) return [];
    return callers.map(callerOf).filter(({ askedAtMs }) => askedAtMs >= sinceMs && askedAtMs <= nowMs);
  } catch {
    return [];
  }
}

function callerOf(entry: unknown): RecentCaller {
  const [uid, cgroup, askedAtMs] = entry as [unknown, unknown, unknown];
  const isUid = typeof uid === "number" && Number.isInteger(uid) && uid > 0 && uid < 4_294_967_295;
  const isCgroup = cgroup === null || (typeof cgroup === "string" && /^\d{1,20}$/.test(cgroup));
  if (!isUid || !isCgroup || typeof askedAtMs !== "number") throw new Error("not a caller");
  return { uid, cgroupId: cgroup === null ? null : BigInt(cgroup as string), askedAtMs };
}

function readOwn(path: string): string {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { uid, mode, size } = fstatSync(descriptor);
    if (uid !== process.getuid?.() || (mode & 0o022) !== 0 || size > MOST_BYTES) throw new Error("not ours");
    return readFileSync(descriptor, "utf8");
  } finally {
    closeSync(descriptor);
  }
}

/** Writes the file atomically. Rejects where it cannot be written. */
export async function writeCallers(
  stateDirectory: string,
  callers: readonly RecentCaller[],
  nowMs: number,
): Promise<void> {
  const text = JSON.stringify({
    bootedAt: bootedAt(nowMs),
    callers: callers.map(({ uid, cgroupId, askedAtMs }) => [
      uid,
      cgroupId === null ? null : String(cgroupId),
      askedAtMs,
    ]),
  });
  const draft = `${stateDirectory}/.${FILE}.new`;
  const file = await open(
    draft,
    constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW,
    0o600,
  );
  try {
    await file.writeFile(text);
  } finally {
    await file.close();
  }
  await rename(draft, `${stateDirectory}/${FILE}`);
}
