import { type ConfigFile, objectDirectory, objectPath, readObject, withObject } from "../config/load.ts";
import { MOST_OBJECT_BYTES, type VerifiedObject, verifyObject } from "../config/object.ts";
import { sourceText } from "../config/remote.ts";
import { ImdsProxyError } from "../errors.ts";
import type { InstanceCredentials } from "../sessions/instance-credentials.ts";
import { fetchSource } from "./source.ts";
import { type PollState, readPollState, requireDirectory, writeCopy, writePollState } from "./store.ts";

/** One poll of the fleet's object: fetches and verifies it, and stores it if this node may take it. */

/**
 * Milliseconds after which the whole object is fetched, whatever its entity tag. A bucket that wrongly says "unchanged" delays nodes no
 * longer than that.
 */
export const FULL_EVERY_MS = 3_600_000;

export interface PollOptions {
  readonly file: ConfigFile;
  /** Those of the instance role. */
  readonly credentials: () => Promise<InstanceCredentials>;
  /** The node's region. */
  readonly region: () => Promise<string>;
  /** The group that reads the copy: the service's. */
  readonly gid: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Nothing is written. */
  readonly dryRun: boolean;
}

export type PollResult =
  /** Another object was taken; with a dry run, it would be. `before`: the serial of the one until then. */
  | { readonly kind: "taken"; readonly serial: number; readonly hash: string; readonly before: number | null }
  | { readonly kind: "unchanged"; readonly serial: number; readonly hash: string }
  /** Nothing has changed on the node. */
  | { readonly kind: "failed"; readonly what: string; readonly remedy: string | null };

/** The object that was fetched, and that the node may take. */
export interface Candidate {
  readonly bytes: Uint8Array;
  readonly etag: string | null;
  readonly serial: number;
  readonly hash: string;
}

/** Polls once. A failure of S3, of the bucket or of the disk is a result, and does not reject the promise. */
export async function poll(options: PollOptions): Promise<PollResult> {
  const { file, gid, now, dryRun } = options;
  const directory = objectDirectory(file.config);
  const path = objectPath(file.config);
  const before = readPollState(directory);
  let state: PollState = before ?? NOTHING;
  let result: PollResult;
  let keeps = false;
  let at: number | null = null;
  try {
    if (!dryRun) {
      requireDirectory(directory);
      keeps = true;
    }
    const found = await ask(options, before);
    at = now();
    if (found.kind === "unchanged") {
      const { serial, hash, etag } = found;
      state = {
        ...state,
        etag: etag ?? state.etag,
        succeededAtMs: at,
        fullAtMs: etag === null ? state.fullAtMs : at,
      };
      state = { ...state, taken: { fleet: remoteOf(file).fleet, serial, hash } };
      result = { kind: "unchanged", serial, hash };
    } else {
      const { bytes, etag, serial, hash } = found.candidate;
      if (!dryRun) writeCopy(path, bytes, gid);
      const taken = { fleet: remoteOf(file).fleet, serial, hash };
      state = { ...state, etag, succeededAtMs: at, fullAtMs: at, taken };
      result = { kind: "taken", serial, hash, before: found.before };
    }
  } catch (error) {
    result = { kind: "failed", ...failureOf(error, path) };
  }
  const problem = result.kind === "failed" ? { what: result.what, remedy: result.remedy } : null;
  if (keeps) {
    try {
      writePollState(directory, { ...state, checkedAtMs: at ?? now(), problem }, gid);
    } catch (error) {
      if (result.kind !== "failed") result = { kind: "failed", ...failureOf(error, path) };
    }
  }
  return result;
}

/**
 * Fetches the object that this node may take, and does not store it; null where the node has that object already.
 *
 * @throws ImdsProxyError where there is none that may be taken.
 */
export async function fetchObject(options: Omit<PollOptions, "dryRun" | "gid">): Promise<Candidate | null> {
  const found = await ask(options, readPollState(objectDirectory(options.file.config)));
  return found.kind === "candidate" ? found.candidate : null;
}

const NOTHING: PollState = {
  checkedAtMs: 0,
  succeededAtMs: null,
  fullAtMs: null,
  etag: null,
  taken: null,
  problem: null,
};

type Found =
  /** `etag`: that of an object which was sent, and is the copy's; null where S3 said "unchanged". */
  | {
      readonly kind: "unchanged";
      readonly serial: number;
      readonly hash: string;
      readonly etag: string | null;
    }
  | { readonly kind: "candidate"; readonly candidate: Candidate; readonly before: number | null };

/** Fetches from S3 or SSM, and verifies the answer. @throws ImdsProxyError where there is no object that may be taken. */
async function ask(options: Omit<PollOptions, "dryRun" | "gid">, state: PollState | null): Promise<Found> {
  const { file, now } = options;
  const remote = remoteOf(file);
  const copy = copyOf(file);
  const isFresh =
    state?.fullAtMs != null && now() - state.fullAtMs < FULL_EVERY_MS && now() >= state.fullAtMs;
  const isOfCopy = copy?.isGood === true && state?.taken?.hash === copy.hash;
  const answer = await fetchSource({
    source: remote.source,
    region: remote.region ?? null,
    nodeRegion: options.region,
    endpoint: remote.endpoint ?? null,
    credentials: options.credentials,
    etag: isFresh && isOfCopy ? state.etag : null,
    mostBytes: MOST_OBJECT_BYTES,
  });
  const name = sourceText(remote.source);
  if (answer.kind === "failed") throw new Failure("unhealthy", `${name}: ${answer.why}`, answer.remedy);
  if (answer.kind === "unchanged") {
    if (copy === null)
      throw new Failure(
        "unhealthy",
        `${name} has not changed, as the server says, but this node has no copy of it`,
        null,
      );
    return { kind: "unchanged", serial: copy.serial, hash: copy.hash, etag: null };
  }
  const { bytes, etag } = answer;
  const verified = verifyObject(bytes, trustOf(file), name);
  const { fleet, serial, hash } = verified;
  // Both are compared: the copy may be lost, or replaced by an older one; the state may be older than the copy, where a poll was interrupted.
  refuseOlder(verified, copy, name);
  refuseOlder(verified, state?.taken?.fleet === fleet ? state.taken : null, name);
  if (copy?.isGood === true && hash === copy.hash) return { kind: "unchanged", serial, hash, etag };
  withObject(file, bytes, name);
  return { kind: "candidate", candidate: { bytes, etag, serial, hash }, before: copy?.serial ?? null };
}

/** @throws ImdsProxyError where the serial is lower than the last one, or the same for another content. */
function refuseOlder(
  { serial, hash }: VerifiedObject,
  last: { readonly serial: number; readonly hash: string } | null,
  name: string,
): void {
  if (last === null || serial > last.serial || (serial === last.serial && hash === last.hash)) return;
  if (serial < last.serial) {
    throw new ImdsProxyError(
      "config",
      `${name} has the serial ${serial}, and this node has had ${last.serial}: an older object is not taken again`,
      `to go back, sign the older rules with a serial above ${last.serial}`,
    );
  }
  throw new ImdsProxyError(
    "config",
    `${name} has other content than the object of the same serial ${serial} that this node has`,
    `sign it with a serial above ${serial}`,
  );
}

/** A failure that is no error of the object. */
class Failure extends ImdsProxyError {}

interface Copy extends Pick<VerifiedObject, "serial" | "hash"> {
  /** Whether the node can use its rules. Its serial counts even where it cannot: for that the signature is enough. */
  readonly isGood: boolean;
}

/** The copy that the node has, where its signature is right. */
function copyOf(file: ConfigFile): Copy | null {
  const path = objectPath(file.config);
  try {
    const bytes = readObject(path);
    if (bytes === null) return null;
    const { serial, hash } = verifyObject(bytes, trustOf(file), path);
    return { serial, hash, isGood: isUsable(file, bytes, path) };
  } catch {
    return null;
  }
}

function isUsable(file: ConfigFile, bytes: Uint8Array, path: string): boolean {
  try {
    withObject(file, bytes, path);
    return true;
  } catch {
    return false;
  }
}

function remoteOf({ config: { config } }: ConfigFile) {
  if (config != null) return config;
  throw new ImdsProxyError(
    "config",
    "this node takes no object: its configuration has no key config",
    "add config: {source: s3://BUCKET/KEY, fleet: NAME, publicKey: …}; docs/fleet.md",
  );
}

const trustOf = (file: ConfigFile) => {
  const { fleet, publicKey } = remoteOf(file);
  return { fleet, publicKeys: publicKey };
};

/** A failure in words. An error that is neither ours nor of the file system is a bug, and is thrown again. */
function failureOf(error: unknown, path: string): { what: string; remedy: string | null } {
  if (error instanceof ImdsProxyError) return { what: error.problem, remedy: error.remedy };
  const { code } = error as NodeJS.ErrnoException;
  if (code === undefined) throw error;
  return {
    what: `the object cannot be written to ${path} (${code}): the previous one stays in effect`,
    remedy:
      code === "ENOSPC" || code === "EDQUOT"
        ? `make room: df -h ${path}`
        : `see what is there: ls -la ${path}`,
  };
}
