import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { z } from "zod";
import { ImdsProxyError } from "../errors.ts";
import { type Caller, OTHERS } from "./callers.ts";
import type { NamedCaller } from "./outcome.ts";
import { PLACE_KINDS, type Place } from "./place.ts";

/** The file to which every run adds. Only root may read it, because it says who runs what, or write it, because root trusts it. */

const FORMAT = 1;
/** S_ISVTX */
const STICKY = 0o1000;
/** 4,096 callers are about 8 MB. */
const MOST_BYTES = 64 * 1_048_576;
const MOST_RUNS = 1_000;

/** When somebody listened, and what they could not see. Times are milliseconds since the epoch. */
export interface Run {
  readonly fromMs: number;
  readonly toMs: number;
  /** Packets that the kernel could not deliver. */
  readonly missed: number;
  /** Something else removed the rules for a while: what was asked then was not seen, and cannot be counted. */
  readonly gap?: true | undefined;
}

/** What was observed on a node. */
export interface Observed {
  readonly node: string;
  readonly runs: readonly Run[];
  readonly callers: readonly NamedCaller[];
}

const text = (longest = 256) => z.string().max(longest);
const count = z.number().int().min(0);
const counts = z.array(z.tuple([text(), count])).max(64);
const uid = z.number().int().min(0).max(4_294_967_294);

const place = z
  .union([
    z.strictObject({ kind: z.literal("unit"), name: text() }),
    z.strictObject({ kind: z.literal("container"), runtime: text(), id: text() }),
    z.strictObject({ kind: z.enum(PLACE_KINDS).exclude(["unit", "container"]) }),
  ])
  .transform((value) => value as Place);

const account = z.strictObject({
  user: text(1_024).nullable(),
  groups: z.array(text(1_024)).max(65_536),
  subordinate: z.boolean(),
  ownerUid: uid.optional(),
  conflict: text(1_024).optional(),
  userUnavailable: text(1_024).optional(),
  groupsUnavailable: text(1_024).optional(),
});

const caller = z.strictObject({
  uid: uid.nullable(),
  container: text(64).nullable(),
  place,
  program: text(),
  arguments: z.array(text()).max(8).nullable(),
  parents: z.array(text()).max(16),
  cgroup: text(8_192).nullable(),
  jobs: z.array(text(32)).max(16),
  connections: count,
  requests: count,
  firstMs: count,
  lastMs: count,
  v1: count,
  v2: count,
  categories: counts,
  userAgents: counts,
  account: account.nullable(),
});

const observed = z.strictObject({
  imdsproxyObserved: z.literal(FORMAT),
  node: text(),
  runs: z
    .array(z.strictObject({ fromMs: count, toMs: count, missed: count, gap: z.literal(true).optional() }))
    .min(1)
    .max(MOST_RUNS),
  callers: z.array(caller).max(10_000),
});

const unsafe = (problem: string, remedy: string) =>
  new ImdsProxyError("unsafe", `observe: ${problem}`, remedy);
const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code ?? "unknown";

/**
 * Refuses a path at which somebody else could put another file: only root and the owner of the file may be able to write to the
 * directories above it, unless they have the sticky bit, as /tmp has.
 *
 * @param owner the owner of the file; default this process's user.
 * @throws ImdsProxyError `unsafe`, `config`.
 */
export function checkDirectory(path: string, owner = process.geteuid?.() ?? 0): void {
  let directory: string;
  try {
    directory = realpathSync(dirname(resolve(path)));
  } catch (error) {
    throw new ImdsProxyError(
      "config",
      `observe: there is no directory ${dirname(resolve(path))} (${codeOf(error)})`,
      "make it, as root, or name another file with --file",
    );
  }
  for (let at = directory; ; at = dirname(at)) {
    const { uid: has, mode } = statSync(at);
    const isOpen = (mode & 0o022) !== 0 && (mode & STICKY) === 0;
    if ((has !== 0 && has !== owner) || isOpen) {
      throw unsafe(
        `${at}, above ${path}, ${isOpen ? `can be written by others (mode ${(mode & 0o7777).toString(8)})` : `belongs to uid ${has}`}`,
        "name a file in a directory of root's, such as /var/lib/imdsproxy-root/observed.json",
      );
    }
    if (at === "/") return;
  }
}

/**
 * Reads the file; null where there is none.
 *
 * @param path that of the file.
 * @throws ImdsProxyError `unsafe` where it is another user's, `config` where it is no file of observe's: then it says what it found.
 */
export function readObserved(path: string): Observed | null {
  const owner = process.geteuid?.() ?? 0;
  let descriptor: number;
  try {
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT") return null;
    if (code === "ELOOP")
      throw unsafe(`${path} is a symbolic link`, "name the file itself, in a directory of root's");
    throw new ImdsProxyError("config", `observe: cannot read ${path}: ${code}`, "run this as root");
  }
  try {
    const status = fstatSync(descriptor);
    if (!status.isFile()) throw unsafe(`${path} is not a regular file`, "name another with --file");
    if ((status.uid !== owner && status.uid !== 0) || (status.mode & 0o022) !== 0) {
      throw unsafe(
        `${path} belongs to uid ${status.uid} with mode ${(status.mode & 0o7777).toString(8)}, so that others than root can write it`,
        "its content cannot be trusted: remove it, or name another file with --file",
      );
    }
    if (status.size > MOST_BYTES)
      throw broken(path, `it has ${status.size} bytes, more than observe ever writes`);
    return parse(readFileSync(descriptor, "utf8"), path);
  } finally {
    closeSync(descriptor);
  }
}

const broken = (path: string, found: string) =>
  new ImdsProxyError(
    "config",
    `observe: ${path} is no file of observe's, or a broken one: ${found}`,
    "nothing was written to it; remove it, or name another file with --file",
  );

function parse(json: string, path: string): Observed {
  let raw: unknown;
  try {
    raw = JSON.parse(json);
  } catch {
    throw broken(path, json === "" ? "it is empty" : "it is not JSON");
  }
  const found = observed.safeParse(raw);
  if (!found.success) {
    const [issue] = found.error.issues;
    const version = (raw as { imdsproxyObserved?: unknown } | null)?.imdsproxyObserved;
    if (typeof version === "number" && version !== FORMAT)
      throw broken(path, `it has format ${version}, and this version reads ${FORMAT}`);
    throw broken(
      path,
      `${issue?.path.map(String).join(".") || "the file"}: ${issue?.message ?? "not as it should be"}`,
    );
  }
  const { node, runs, callers } = found.data;
  // The type of zod allows `undefined` for a key that is absent; JSON has no such value.
  return { node, runs, callers: callers as readonly NamedCaller[] };
}

/** Writes the file: to a draft beside it, which is then renamed. @throws ImdsProxyError `command-failed`, `unsafe`. */
export function writeObserved(path: string, { node, runs, callers }: Observed): void {
  checkDirectory(path);
  const value = { imdsproxyObserved: FORMAT, node, runs: runs.slice(-MOST_RUNS), callers };
  const draft = join(dirname(resolve(path)), `.${basename(path)}.${process.pid}.new`);
  try {
    const before = lstatSync(path, { throwIfNoEntry: false });
    if (before !== undefined && !before.isFile())
      throw unsafe(`${path} is not a regular file`, "name another");
    removeDraft(draft);
    const descriptor = openSync(
      draft,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      0o600,
    );
    try {
      writeWhole(descriptor, Buffer.from(`${JSON.stringify(value)}\n`));
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    chmodSync(draft, 0o600);
    renameSync(draft, path);
  } catch (error) {
    if (error instanceof ImdsProxyError) throw error;
    removeDraft(draft);
    throw new ImdsProxyError(
      "command-failed",
      `observe: cannot write ${path}: ${codeOf(error)}`,
      codeOf(error) === "ENOSPC" ? "make room on its disk; what was in it before is still there" : null,
    );
  }
}

/** Removes a draft that an earlier run left. A directory of that name stays; then the draft cannot be made. */
function removeDraft(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // It is a directory.
  }
}

function writeWhole(descriptor: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(descriptor, bytes, at);
}

/** A caller of the file without its names, to be added to. */
export const withoutNames = ({ account: _, ...rest }: NamedCaller): Caller => rest;

/** Whether a caller stands for several. */
export const isFolded = ({ program }: Pick<Caller, "program">): boolean => program === OTHERS;
