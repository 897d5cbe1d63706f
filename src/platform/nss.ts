import { CFunction, dlopen, FFIType, type Pointer, ptr, read, toArrayBuffer } from "bun:ffi";
import {
  AF_UNIX,
  ECONNREFUSED,
  errno as lastErrno,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  libc as socketCalls,
  unixName,
} from "./socket-calls.ts";

/**
 * The modules of the name service switch (nsswitch.conf(5)), called one by one.
 *
 * getpwuid_r(3) and getent(1) report one outcome for all services together: with `passwd: sss files`, an unavailable directory
 * looks like an account that does not exist. A module's own functions distinguish the two (enum nss_status in nss.h).
 *
 * Every call blocks for as long as the module does, and a faulty module can end the process. So only the helper process
 * `imdsproxy resolve-names` makes these calls (src/identity/name-helpers.ts).
 */

/** The answer of a module. `errno` is 0 where the module set none. */
export type NssReply<T> =
  | { readonly status: "success"; readonly value: T }
  | { readonly status: "notfound" }
  | { readonly status: "tryagain" | "unavail"; readonly errno: number };

/** The fields of struct passwd that are used here (pwd.h); the name as bytes. */
export interface NssAccount {
  readonly name: Uint8Array;
  readonly uid: number;
  readonly gid: number;
}

/** One service of nsswitch.conf(5), such as `files` or `sss`. */
export interface NssModule {
  accountByUid(uid: number): NssReply<NssAccount>;
  accountByName(name: Uint8Array): NssReply<NssAccount>;
  /** The name of the group with the gid. */
  groupName(gid: number): NssReply<Uint8Array>;
  /** The gids of the supplementary groups, and the primary one. */
  groupsOf(name: Uint8Array, gid: number): NssReply<readonly number[]>;
}

/** A module, or why there is none: its library is not installed, or cannot be loaded. */
export type OpenedModule =
  | { readonly kind: "module"; readonly module: NssModule }
  | { readonly kind: "absent" }
  | { readonly kind: "broken"; readonly why: string };

const LIBC = {
  malloc: { args: [FFIType.u64_fast], returns: FFIType.ptr },
  free: { args: [FFIType.ptr], returns: FFIType.void },
  strlen: { args: [FFIType.ptr], returns: FFIType.u64_fast },
  prctl: {
    args: [FFIType.i32, FFIType.u64_fast, FFIType.u64_fast, FFIType.u64_fast, FFIType.u64_fast],
    returns: FFIType.i32,
  },
} as const;
const LOADER = {
  dlopen: { args: [FFIType.ptr, FFIType.i32], returns: FFIType.ptr },
  dlsym: { args: [FFIType.ptr, FFIType.ptr], returns: FFIType.ptr },
  dlerror: { args: [], returns: FFIType.ptr },
} as const;

function open() {
  const { symbols: libc } = dlopen("libc.so.6", LIBC);
  // In libc.so.6 from glibc 2.34 on.
  const { symbols: loader } = (() => {
    try {
      return dlopen("libc.so.6", LOADER);
    } catch {
      return dlopen("libdl.so.2", LOADER);
    }
  })();
  return { ...libc, ...loader };
}
let opened: ReturnType<typeof open> | null = null;
const c = () => {
  opened ??= open();
  return opened;
};

const RTLD_NOW = 2;
const cString = (text: string): Uint8Array => Buffer.from(`${text}\0`);

function bytesAt(address: number): Uint8Array {
  if (address === 0) return new Uint8Array();
  const length = Number(c().strlen(address as Pointer));
  return length === 0
    ? new Uint8Array()
    : new Uint8Array(toArrayBuffer(address as Pointer, 0, length)).slice();
}

interface Library {
  /** The function of that name, or null. */
  symbol(name: string): Pointer | null;
}

/** @returns the library, or why it cannot be loaded, as dlerror(3) says it. */
function load(file: string): Library | string {
  const { dlopen: openLibrary, dlsym, dlerror } = c();
  const handle = openLibrary(ptr(cString(file)), RTLD_NOW);
  if (handle === null) return Buffer.from(bytesAt(Number(dlerror() ?? 0))).toString("latin1");
  return { symbol: (name) => dlsym(handle as Pointer, ptr(cString(name))) as Pointer | null };
}

/** enum nss_status (nss.h). */
const TRYAGAIN = -2;
const NOTFOUND = 0;
const SUCCESS = 1;
const ERANGE = 34;
const FIRST_BUFFER = 4_096;
/** Largest buffer: the members of a group of a hundred thousand take some megabytes. */
const MAX_BUFFER = 64 * 1024 * 1024;

const UNAVAILABLE = { status: "unavail", errno: 0 } as const;

const failure = (status: number, errno: number): NssReply<never> => {
  if (status === NOTFOUND) return { status: "notfound" };
  return { status: status === TRYAGAIN ? "tryagain" : "unavail", errno };
};

type Lookup = (result: Uint8Array, buffer: Uint8Array, errno: Int32Array) => number;

/** Calls again with a buffer four times as long while the module says that it is too small: TRYAGAIN with ERANGE. */
function withBuffer<T>(size: number, call: Lookup, take: (result: DataView) => T): NssReply<T> {
  for (let length = FIRST_BUFFER; ; length *= 4) {
    const result = new Uint8Array(size);
    const buffer = new Uint8Array(length);
    const errno = new Int32Array(1);
    const status = call(result, buffer, errno);
    if (status === SUCCESS) return { status: "success", value: take(new DataView(result.buffer)) };
    if (status !== TRYAGAIN || errno[0] !== ERANGE || length >= MAX_BUFFER)
      return failure(status, errno[0] ?? 0);
  }
}

const address = (view: DataView, at: number): number => Number(view.getBigUint64(at, true));
/** struct passwd: char *pw_name, char *pw_passwd, u32 pw_uid, u32 pw_gid, three further pointers (pwd.h, 64-bit). */
const PASSWD_SIZE = 48;
const takeAccount = (passwd: DataView): NssAccount => ({
  name: bytesAt(address(passwd, 0)),
  uid: passwd.getUint32(16, true),
  gid: passwd.getUint32(20, true),
});
/** struct group: char *gr_name, char *gr_passwd, u32 gr_gid, char **gr_mem (grp.h, 64-bit). */
const GROUP_SIZE = 32;

const MODULES = new Map<string, NssModule>();

/** The module of a service. A loaded module is kept; one that is not installed is looked for again at each call. */
export function openNssModule(service: string): OpenedModule {
  const known = MODULES.get(service);
  if (known !== undefined) return { kind: "module", module: known };
  const file = `libnss_${service}.so.2`;
  const library = load(file);
  if (typeof library === "string") {
    // dlerror(3) names the file that is missing: the module's own, or one that the module needs.
    const absent = library.startsWith(`${file}: cannot open shared object file: No such file`);
    if (absent && service !== "files") return { kind: "absent" };
    if (!absent) return { kind: "broken", why: library };
  }
  // From glibc 2.34 on, `files` is part of libc.so.6, and libnss_files.so.2 is empty or gone.
  const inner = service === "files" ? load("libc.so.6") : null;
  const module = bind((name) => {
    const full = `_nss_${service}_${name}`;
    const found = typeof library === "string" ? null : library.symbol(full);
    return found ?? (inner === null || typeof inner === "string" ? null : inner.symbol(full));
  });
  MODULES.set(service, module);
  return { kind: "module", module };
}

/**
 * A module that lacks a function has no entries of that kind. glibc takes this for UNAVAIL and asks the next service, so here it
 * is "not found".
 */
function bind(symbol: (name: string) => Pointer | null): NssModule {
  const { i32, u32, ptr: pointer, u64_fast, i64_fast } = FFIType;
  const fn = (name: string, args: FFIType[]) => {
    const found = symbol(name);
    return found === null ? null : CFunction({ ptr: found, args, returns: i32 });
  };
  const getpwuid = fn("getpwuid_r", [u32, pointer, pointer, u64_fast, pointer]);
  const getpwnam = fn("getpwnam_r", [pointer, pointer, pointer, u64_fast, pointer]);
  const getgrgid = fn("getgrgid_r", [u32, pointer, pointer, u64_fast, pointer]);
  const initgroups = fn("initgroups_dyn", [pointer, u32, pointer, pointer, pointer, i64_fast, pointer]);
  const setgrent = fn("setgrent", [i32]);
  const getgrent = fn("getgrent_r", [pointer, pointer, u64_fast, pointer]);
  const endgrent = fn("endgrent", []);
  const none = { status: "notfound" } as const;
  return {
    accountByUid: (uid) =>
      getpwuid === null
        ? none
        : withBuffer(
            PASSWD_SIZE,
            (result, buffer, errno) => getpwuid(uid, ptr(result), ptr(buffer), buffer.length, ptr(errno)),
            takeAccount,
          ),
    accountByName(name) {
      if (getpwnam === null) return none;
      const text = ended(name);
      return withBuffer(
        PASSWD_SIZE,
        (result, buffer, errno) => getpwnam(ptr(text), ptr(result), ptr(buffer), buffer.length, ptr(errno)),
        takeAccount,
      );
    },
    groupName: (gid) =>
      getgrgid === null
        ? none
        : withBuffer(
            GROUP_SIZE,
            (result, buffer, errno) => getgrgid(gid, ptr(result), ptr(buffer), buffer.length, ptr(errno)),
            (group) => bytesAt(address(group, 0)),
          ),
    groupsOf(name, gid) {
      if (initgroups !== null) return callInitgroups(initgroups, name, gid);
      if (setgrent === null || getgrent === null || endgrent === null) return none;
      // As glibc does for a module without initgroups_dyn (compat_call in nss/initgroups.c).
      const started = setgrent(0);
      if (started !== SUCCESS) return failure(started, 0);
      const wanted = Buffer.from(name);
      const gids: number[] = [];
      for (;;) {
        const next = withBuffer(
          GROUP_SIZE,
          (result, buffer, errno) => getgrent(ptr(result), ptr(buffer), buffer.length, ptr(errno)),
          (group) => ({ gid: group.getUint32(16, true), members: membersAt(address(group, 24)) }),
        );
        if (next.status === "success") {
          if (next.value.members.some((member) => wanted.equals(member))) gids.push(next.value.gid);
          continue;
        }
        endgrent();
        if (next.status === "notfound") return { status: "success", value: gids };
        return next;
      }
    },
  };
}

const ended = (name: Uint8Array): Uint8Array => Buffer.concat([name, Uint8Array.of(0)]);

function membersAt(list: number): Uint8Array[] {
  const members: Uint8Array[] = [];
  if (list === 0) return members;
  for (let at = 0; ; at += 8) {
    const member = Number(read.u64(list as Pointer, at));
    if (member === 0) return members;
    members.push(bytesAt(member));
  }
}

/** The gids that the first array has room for. The module extends it with realloc(3). */
const FIRST_GIDS = 64;

/**
 * `enum nss_status _nss_X_initgroups_dyn(const char *user, gid_t group, long *start, long *size, gid_t **groups,
 * long limit, int *errnop)`: appends to `*groups` from `*start` on (nss/initgroups.c in glibc).
 */
function callInitgroups(call: CallableFunction, name: Uint8Array, gid: number): NssReply<readonly number[]> {
  const { malloc, free } = c();
  const memory = malloc(4 * FIRST_GIDS);
  if (memory === null) return UNAVAILABLE;
  const groups = BigUint64Array.of(BigInt(memory));
  try {
    new Uint32Array(toArrayBuffer(memory, 0, 4 * FIRST_GIDS))[0] = gid;
    const start = BigInt64Array.of(1n);
    const size = BigInt64Array.of(BigInt(FIRST_GIDS));
    const errno = new Int32Array(1);
    const user = ended(name);
    const status = Number(call(ptr(user), gid, ptr(start), ptr(size), ptr(groups), -1, ptr(errno)));
    if (status !== SUCCESS) return failure(status, errno[0] ?? 0);
    const list = toArrayBuffer(Number(groups[0]) as Pointer, 0, 4 * Number(start[0]));
    return { status: "success", value: [...new Uint32Array(list)] };
  } finally {
    free(Number(groups[0]) as Pointer);
  }
}

/** enum subid_status and enum subid_type (subid.h of shadow-utils). */
const SUBID_SUCCESS = 0;
const SUBID_CONNECTION_FAILED = 2;
const SUBID_UID = 1;

/**
 * The uids whose subordinate uid this is, by the module that `subid:` in nsswitch.conf(5) names (shadow-utils 4.9 and newer).
 *
 * @returns `unavail` where the service does not answer now, `unsupported` where it has no such function.
 */
export function subordinateOwners(
  service: string,
  uid: number,
): { status: "success"; owners: readonly number[] } | { status: "unavail" | "unsupported" } {
  const library = load(`libsubid_${service}.so`);
  const symbol = typeof library === "string" ? null : library.symbol("shadow_subid_find_subid_owners");
  if (symbol === null) return { status: "unsupported" };
  const { i32, u64_fast, ptr: pointer } = FFIType;
  const find = CFunction({ ptr: symbol, args: [u64_fast, i32, pointer, pointer], returns: i32 });
  const list = new BigUint64Array(1);
  const count = new Int32Array(1);
  const status = Number(find(uid, SUBID_UID, ptr(list), ptr(count)));
  const found = Number(list[0]);
  if (status !== SUBID_SUCCESS)
    return { status: status === SUBID_CONNECTION_FAILED ? "unavail" : "unsupported" };
  if (found === 0 || (count[0] ?? 0) <= 0) return { status: "success", owners: [] };
  const owners = [...new Uint32Array(toArrayBuffer(found as Pointer, 0, 4 * (count[0] ?? 0)))];
  c().free(found as Pointer);
  return { status: "success", owners };
}

/** Whether the path is a Unix socket on which nobody listens any more. False where there is no socket. */
export function socketIsDead(path: string): boolean {
  const name = unixName(path);
  const descriptor =
    name === null ? -1 : socketCalls.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (name === null || descriptor < 0) return false;
  const refused =
    socketCalls.connect(descriptor, ptr(name), name.length) !== 0 && lastErrno() === ECONNREFUSED;
  socketCalls.close(descriptor);
  return refused;
}

const PR_SET_PDEATHSIG = 1;
const SIGKILL = 9;

/**
 * From now on, the kernel kills this process when its parent ends, even where that ends by kill -9 (prctl(2), PR_SET_PDEATHSIG).
 */
export function endWithParent(): void {
  c().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}
