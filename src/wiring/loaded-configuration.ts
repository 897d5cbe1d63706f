import { readFileSync } from "node:fs";
import { systemClock } from "../platform/clock.ts";
import type { Finding } from "../telemetry/health.ts";

/** Which text of the configuration file is in effect, and the result of the last reload. */
export class LoadedConfiguration {
  readonly #path: string;
  readonly #read: (path: string) => string;
  readonly #now: () => number;
  readonly #reloads = { success: 0, failure: 0 };
  #text: string | null;
  /** The text at the last call of {@link reading}. */
  #readText: string | null;
  #problem: string | null = null;
  #loadedAtMs: number;
  #lastReload: { readonly atMs: number; readonly problem: string | null } | null = null;

  /**
   * @param options.read default: from the disk. Throws where it cannot.
   * @param options.now milliseconds since the epoch; default: the machine's clock.
   */
  constructor(options: { path: string; read?: (path: string) => string; now?: () => number }) {
    this.#path = options.path;
    this.#now = options.now ?? systemClock.now;
    this.#loadedAtMs = this.#now();
    this.#read = options.read ?? ((path) => readFileSync(path, "utf8"));
    this.#text = this.#readText = this.#onDisk();
  }

  /**
   * To be called before the file is loaded, and before the first time this is made: where the file is replaced while it is loaded,
   * what is there afterwards is not in effect.
   */
  reading(): void {
    this.#readText = this.#onDisk();
  }

  /** To be called when the file was loaded and is in effect; or another object with the file of before. */
  loaded(what: "file" | "object" = "file"): void {
    if (what === "file") {
      this.#text = this.#readText;
      this.#problem = null;
    }
    this.#loadedAtMs = this.#now();
    this.#reloads.success++;
    this.#lastReload = { atMs: this.#now(), problem: null };
  }

  /** To be called when the file was refused, or another object: the configuration before stays in effect. */
  refused(problem: string, what: "file" | "object" = "file"): void {
    if (what === "file") this.#problem = problem;
    this.#reloads.failure++;
    this.#lastReload = { atMs: this.#now(), problem };
  }

  /** Reloads since the start, by result. */
  get reloads(): Readonly<Record<"success" | "failure", number>> {
    return this.#reloads;
  }

  /** When the configuration in effect was loaded: milliseconds since the epoch. */
  get loadedAtMs(): number {
    return this.#loadedAtMs;
  }

  /** The last reload, in milliseconds since the epoch, and why it was refused; null where there was none since the start. */
  get lastReload(): { readonly atMs: number; readonly problem: string | null } | null {
    return this.#lastReload;
  }

  get path(): string {
    return this.#path;
  }

  /** False after a reload that failed, until one succeeds. */
  get lastReloadSuccessful(): boolean {
    return this.#problem === null;
  }

  /** Whether the file on the disk is in effect. */
  get isCurrent(): boolean {
    return this.#onDisk() === this.#text;
  }

  /** The finding for an administrator; null where the file on the disk is in effect. */
  finding(): Finding | null {
    if (this.isCurrent) return null;
    if (this.#problem !== null) {
      return {
        what: `${this.#path} was not loaded, and the previous configuration stays in effect: ${this.#problem}`,
        remedy: `correct it until imdsproxy config check ${this.#path} finds no error; then systemctl reload imdsproxy`,
        lasting: true,
      };
    }
    return {
      what: `${this.#path} was changed since it was loaded, and the change is not in effect`,
      remedy: `imdsproxy config check ${this.#path}; then systemctl reload imdsproxy`,
      lasting: true,
    };
  }

  #onDisk(): string | null {
    try {
      return this.#read(this.#path);
    } catch {
      return null;
    }
  }
}
