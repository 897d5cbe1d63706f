import { every } from "./clock.ts";
import { writeWithoutWaiting } from "./libc.ts";

/** How much is kept of what cannot be written, in bytes: some 1,000 lines. */
const MOST_BYTES = 256 * 1_024;
/** How often it is tried again, in milliseconds. */
const AGAIN_MS = 200;

/**
 * Lines to somebody who may not read: journald that is stopped, a pipe whose reader sleeps. Never waits, and keeps a bounded
 * number of bytes; what does not fit is counted, and said when the output works again. (What Bun's own process.stderr cannot
 * write it keeps in memory, all of it.)
 */
export class BoundedOutput {
  readonly #write: (bytes: Uint8Array) => number;
  readonly #lostLine: (lines: number) => string;
  readonly #mostBytes: number;
  readonly #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #lost = 0;
  #stopTrying: (() => void) | null = null;

  /**
   * @param options.write writes some of the bytes: as {@link writeWithoutWaiting} returns.
   * @param options.lostLine the line that says how many could not be written.
   * @param options.mostBytes default 256 KiB.
   */
  constructor(options: {
    write: (bytes: Uint8Array) => number;
    lostLine: (lines: number) => string;
    mostBytes?: number;
  }) {
    this.#write = options.write;
    this.#lostLine = options.lostLine;
    this.#mostBytes = options.mostBytes ?? MOST_BYTES;
  }

  /** Bytes that wait to be written. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** A line with its end. */
  write(line: string): void {
    this.flush();
    this.#add(line);
    this.flush();
  }

  /** Writes what can be written now. */
  flush(): void {
    this.#drain();
    if (this.#waiting.length === 0 && this.#lost > 0) {
      const line = this.#lostLine(this.#lost);
      this.#lost = 0;
      this.#add(line);
      this.#drain();
    }
    this.#keepTrying();
  }

  #add(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#waitingBytes + bytes.length > this.#mostBytes) {
      this.#lost++;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  #drain(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const written = this.#write(first);
      if (written === 0) return;
      // Nobody will read it, so nobody has to be told either.
      const done = written < 0 ? first.length : written;
      this.#waitingBytes -= done;
      if (done === first.length) this.#waiting.shift();
      // The rest of a line comes first, so that lines stay whole.
      else this.#waiting[0] = first.subarray(done);
    }
  }

  #keepTrying(): void {
    const isDone = this.#waiting.length === 0;
    if (isDone && this.#stopTrying !== null) {
      this.#stopTrying();
      this.#stopTrying = null;
    } else if (!isDone && this.#stopTrying === null) {
      this.#stopTrying = every(AGAIN_MS, () => this.flush());
    }
  }
}

const STDERR = 2;

/** Standard error. @param lostLine see {@link BoundedOutput}. */
export const standardError = (lostLine: (lines: number) => string): BoundedOutput =>
  new BoundedOutput({ write: (bytes) => writeWithoutWaiting(STDERR, bytes), lostLine });
