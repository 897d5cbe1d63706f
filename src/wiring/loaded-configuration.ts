import { readFileSync } from "node:fs";
import type { Finding } from "../telemetry/health.ts";

/** Which text of the configuration's file runs, and what the last try to load it again came to. */
export class LoadedConfiguration {
  readonly #path: string;
  readonly #read: (path: string) => string;
  #text: string | null;
  #problem: string | null = null;

  /** @param options.read default: from the disk. Throws where it cannot. */
  constructor(options: { path: string; read?: (path: string) => string }) {
    this.#path = options.path;
    this.#read = options.read ?? ((path) => readFileSync(path, "utf8"));
    this.#text = this.#onDisk();
  }

  /** The file was loaded again, and what it says holds from now on. */
  loaded(): void {
    this.#text = this.#onDisk();
    this.#problem = null;
  }

  /** The file was not taken; what ran before runs on. */
  refused(problem: string): void {
    this.#problem = problem;
  }

  /** False after a reload that failed, until one succeeds. */
  get lastReloadSuccessful(): boolean {
    return this.#problem === null;
  }

  /** Whether the file on the disk is what runs. */
  get isCurrent(): boolean {
    return this.#onDisk() === this.#text;
  }

  /** What to tell an administrator, or null where the file on the disk is what runs. */
  finding(): Finding | null {
    if (this.isCurrent) return null;
    if (this.#problem !== null) {
      return {
        what: `${this.#path} was not loaded, and the configuration of before runs: ${this.#problem}`,
        remedy: `mend it until imdsproxy config check ${this.#path} says that it is good; then systemctl reload imdsproxy`,
        lasting: true,
      };
    }
    return {
      what: `${this.#path} on the disk is not what runs: it was changed since it was loaded`,
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
