import { dlopen, FFIType, ptr } from "bun:ffi";
import { closeSync, constants, openSync, readlinkSync } from "node:fs";

/** Files by handle (open_by_handle_at(2)): for file systems that name files by a number, such as cgroup v2. */

const { symbols: libc } = dlopen("libc.so.6", {
  open_by_handle_at: { args: [FFIType.i32, FFIType.ptr, FFIType.i32], returns: FFIType.i32 },
});

/** FILEID_KERNFS (include/linux/exportfs.h): the handle is the 64-bit id of the directory (kernfs, since linux 5.5). */
const FILEID_KERNFS = 0xfe;
const O_PATH = 0o10000000;
const ID_BYTES = 8;

/** A mounted kernfs, such as cgroup v2. */
export class KernfsMount {
  readonly #mount: string;
  readonly #descriptor: number;

  /** @throws the error of the file system. */
  constructor(mount: string) {
    this.#mount = mount;
    this.#descriptor = openSync(mount, constants.O_RDONLY | constants.O_DIRECTORY);
  }

  /**
   * The path of a directory below the mount, with a slash at its start; null where it was removed, is outside of the mount, or
   * the process lacks CAP_DAC_READ_SEARCH.
   */
  pathOf(id: bigint): string | null {
    // struct file_handle: u32 handle_bytes, i32 handle_type, the handle.
    const handle = new DataView(new ArrayBuffer(8 + ID_BYTES));
    handle.setUint32(0, ID_BYTES, true);
    handle.setInt32(4, FILEID_KERNFS, true);
    handle.setBigUint64(8, id, true);
    const descriptor = libc.open_by_handle_at(
      this.#descriptor,
      ptr(handle.buffer),
      O_PATH | constants.O_DIRECTORY,
    );
    if (descriptor < 0) return null;
    try {
      const path = readlinkSync(`/proc/self/fd/${descriptor}`);
      if (path === this.#mount) return "/";
      return path.startsWith(`${this.#mount}/`) && !path.endsWith(" (deleted)")
        ? path.slice(this.#mount.length)
        : null;
    } catch {
      return null;
    } finally {
      closeSync(descriptor);
    }
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}
