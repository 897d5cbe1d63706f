import { readFileSync } from "node:fs";
import type { Finding } from "../telemetry/health.ts";

/** Which text of the configuration file is in effect, and the result of the last reload. */
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

  /** To be called when the file was loaded and is in effect. */
  loaded(): void {
    this.#text = this.#onDisk();
    this.#problem = null;
  }

  /** To be called when the file was refused: the configuration before stays in effect. */
  refused(problem: string): void {
    this.#problem = problem;
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
