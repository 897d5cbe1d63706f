import { every } from "./clock.ts";
import { writeWithoutWaiting } from "./libc.ts";

/** Size of the buffer for lines that cannot be written yet, in bytes: some 1,000 lines. */
const MOST_BYTES = 256 * 1_024;
/** How often the buffer is flushed, in milliseconds. */
const AGAIN_MS = 200;

/**
 * Writes lines to a descriptor whose reader may have stopped reading, such as journald or a pipe. A write never blocks; what
 * cannot be written is buffered up to a limit. Lines beyond it are dropped and counted, and one line says how many once the
 * output works again. (Bun's own process.stderr buffers without a limit.)
 */
export class BoundedOutput {
  readonly #write: (bytes: Uint8Array) => number;
  readonly #lostLine: (lines: number) => string;
  readonly #mostBytes: number;
  readonly #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** Lines that were lost and not reported yet, and all that were lost since the start. */
  #lost = 0;
  #lostInAll = 0;
  #stopTrying: (() => void) | null = null;

  /**
   * @param options.write writes some of the bytes, and returns what {@link writeWithoutWaiting} returns.
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

  /** Lines that were dropped since the start. */
  get lostLines(): number {
    return this.#lostInAll;
  }

  /** Writes a line, which includes its newline. */
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
      this.#lostInAll++;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
  }

  #drain(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const written = this.#write(first);
      if (written === 0) return;
      // The reader is gone for good: the line is dropped without being counted.
      const done = written < 0 ? first.length : written;
      this.#waitingBytes -= done;
      if (done === first.length) this.#waiting.shift();
      // The rest of a line is written before any other line.
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
