import { statSync } from "node:fs";
import { stat } from "node:fs/promises";
import type { Clock } from "../platform/clock.ts";

/** How often the file is looked at, in milliseconds. */
const LOOK_MS = 250;

/** What stat(2) says of a file, links followed. */
export interface FileState {
  /** Which file it is, by device and inode. */
  readonly file: string;
  /** Its size and times: while they change, somebody may still be writing. */
  readonly written: string;
}

interface Stat {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}
const stateOf = ({ dev, ino, size, mtimeNs, ctimeNs }: Stat): FileState => ({
  file: `${dev}:${ino}`,
  written: `${size} ${mtimeNs} ${ctimeNs}`,
});

/** The file at a path; null where there is none, or where it cannot be looked at. */
export const fileState = {
  async look(path: string): Promise<FileState | null> {
    return stat(path, { bigint: true }).then(stateOf, () => null);
  },
  lookNow(path: string): FileState | null {
    try {
      return stateOf(statSync(path, { bigint: true }));
    } catch {
      return null;
    }
  },
};

/**
 * Sees when another file stands at a path: by rename(2), as configuration tools and most editors write, or by a symbolic link
 * anywhere in the path that leads elsewhere. A file that is written in place is not noticed: it
 * cannot be told whether all of it is written, and the first half of a list of rules is valid as well.
 *
 * The path is looked at again and again, because inotify(7) tells nothing of links further up, nor of other hosts' changes on
 * network file systems.
 */
export class ReplacedFile {
  readonly #path: string;
  readonly #clock: Clock;
  readonly #files: typeof fileState;
  readonly #onReplaced: () => void;
  /** Which file was loaded last, or was told of; null where there was none. */
  #loaded: string | null;
  /** Another one, as it was at the last look. */
  #other: FileState | null = null;
  #cancel: () => void;
  #stopped = false;

  /**
   * @param options.loaded the file as it was before it was read; null where there was none.
   * @param options.onReplaced called where another file has been there, unchanged, for two looks.
   */
  constructor(options: {
    path: string;
    loaded: FileState | null;
    clock: Clock;
    onReplaced: () => void;
    files?: typeof fileState;
  }) {
    this.#path = options.path;
    this.#clock = options.clock;
    this.#files = options.files ?? fileState;
    this.#onReplaced = options.onReplaced;
    this.#loaded = options.loaded?.file ?? null;
    this.#cancel = this.#clock.schedule(LOOK_MS, () => void this.#look());
  }

  /** To be called before the file is read, for whatever reason. */
  reading(): void {
    this.#loaded = this.#files.lookNow(this.#path)?.file ?? null;
    this.#other = null;
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
  }

  async #look(): Promise<void> {
    const found = await this.#files.look(this.#path);
    if (this.#stopped) return;
    const isOther = found !== null && found.file !== this.#loaded;
    const isWhole = isOther && this.#other?.file === found.file && this.#other.written === found.written;
    this.#other = isOther ? found : null;
    if (isWhole) {
      // What stands there a moment later may be another one.
      this.#loaded = found.file;
      this.#other = null;
      this.#onReplaced();
    }
    if (!this.#stopped) this.#cancel = this.#clock.schedule(LOOK_MS, () => void this.#look());
  }
}
