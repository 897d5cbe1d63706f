import { statSync } from "node:fs";
import { type LoadedConfig, objectDirectory, readObject } from "../config/load.ts";
import { hashOf } from "../config/object.ts";
import { sourceText } from "../config/remote.ts";
import { type PollState, readPollState } from "../fleet/store.ts";
import { every } from "../platform/clock.ts";
import type { Finding } from "../telemetry/health.ts";
import type { ObjectCounts } from "../telemetry/metrics.ts";
import type { StatusObject } from "../telemetry/status-document.ts";

/**
 * The fleet's object as the proxy sees it: the copy on the disk, which another program fetches, and what that program says of its
 * last poll. The proxy asks nobody for it.
 */

/** Milliseconds between two looks at whether the copy has changed. */
const LOOK_MS = 1_000;
/** Milliseconds without a poll, besides three of its intervals, after which that is a problem. */
const STALE_MS = 300_000;

/** What the disk says; a test gives its own. */
export interface FleetObjectSources {
  /** Changes with each other file at the path; null where there is none. */
  readonly stamp: (path: string) => string | null;
  /** @throws what the file system says. */
  readonly read: (path: string) => Uint8Array | null;
  readonly pollState: (directory: string) => PollState | null;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

const DISK: Omit<FleetObjectSources, "now"> = {
  stamp(path) {
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
      return [dev, ino, size, mtimeNs, ctimeNs].join(" ");
    } catch {
      return null;
    }
  },
  read: readObject,
  pollState: readPollState,
};

export class FleetObject {
  readonly #sources: FleetObjectSources;
  readonly #startedMs: number;
  #running: LoadedConfig;
  /** The hash of the copy that was loaded last, or refused; null where there was none. */
  #tried: string | null;
  #seen: { readonly path: string; readonly stamp: string | null; readonly hash: string | null } | null = null;
  /** Why the copy on the disk was refused; null where it was not. */
  #refused: { readonly problem: string; readonly remedy: string | null } | null = null;

  constructor(running: LoadedConfig, sources: Pick<FleetObjectSources, "now"> & Partial<FleetObjectSources>) {
    this.#sources = { ...DISK, ...sources };
    this.#startedMs = this.#sources.now();
    this.#running = running;
    this.#tried = hashIn(running);
  }

  /** To be called with the configuration that is in effect from now on. */
  loaded(running: LoadedConfig): void {
    this.#running = running;
    // One that cannot be used was tried all the same: it is not tried again before there is another.
    if (running.object?.kind !== "unusable") this.#tried = hashIn(running);
    this.#refused = null;
  }

  /** To be called where the copy on the disk was refused: the object of before stays. */
  refused(problem: string, remedy: string | null): void {
    this.#refused = { problem, remedy };
  }

  /** What is in effect. */
  get running(): LoadedConfig {
    return this.#running;
  }

  /**
   * Calls `reload` when the copy on the disk is another than the one that was loaded, or refused, last. A look is one stat(2), so it
   * misses no change and waits for no signal.
   */
  follow(reload: () => void): () => void {
    return every(LOOK_MS, () => this.look(reload));
  }

  /** One look of {@link follow}. */
  look(reload: () => void): void {
    const path = this.#running.object?.path;
    if (path === undefined) return;
    const hash = this.#hashAt(path);
    if (hash === this.#tried) return;
    this.#tried = hash;
    reload();
  }

  #hashAt(path: string): string | null {
    const { stamp: stampOf, read } = this.#sources;
    const stamp = stampOf(path);
    if (this.#seen?.path === path && this.#seen.stamp === stamp) return this.#seen.hash;
    let hash: string | null;
    try {
      const bytes = read(path);
      hash = bytes === null ? null : hashOf(bytes);
    } catch {
      // It counts as none until it can be read. Nothing of the file changes then, so it is read again at each look.
      this.#seen = null;
      return null;
    }
    this.#seen = { path, stamp, hash };
    return hash;
  }

  /** What an administrator has to know; null where all is well. */
  finding(): Finding | null {
    const { config, object } = this.#running;
    const remote = config.config;
    if (remote == null || object === null) return null;
    const name = sourceText(remote.source);
    const state = this.#pollState();
    const why = state?.problem ?? null;
    const polled = why === null ? "" : `: ${why.what}`;
    if (object.kind === "missing") {
      return {
        what: `every user is refused, because this node has never had the object ${name}${polled}`,
        remedy: why?.remedy ?? "see why: sudo imdsproxy config fetch",
        lasting: false,
      };
    }
    if (object.kind === "unusable") {
      return {
        what: `every user is refused, because the copy of the object ${name} cannot be used: ${object.problem}`,
        remedy: "mend what it says, or put an object there that is good: sudo imdsproxy config fetch",
        lasting: false,
      };
    }
    const stays = `the rules of serial ${object.serial} stay`;
    if (this.#refused !== null) {
      return {
        what: `the object that was fetched last was not loaded, and ${stays}: ${this.#refused.problem}`,
        remedy: this.#refused.remedy ?? "sudo imdsproxy config check",
        lasting: true,
      };
    }
    if (why !== null) {
      return {
        what: `the last poll of ${name} failed, and ${stays}${polled}`,
        remedy: why.remedy ?? "see whether the next one does: sudo imdsproxy config fetch",
        lasting: false,
      };
    }
    const last = Math.max(state?.checkedAtMs ?? 0, this.#startedMs);
    if (this.#sources.now() - last <= remote.every * 3_000 + STALE_MS) return null;
    return {
      what: `${name} has not been polled since ${new Date(last).toISOString()}, and ${stays}`,
      remedy: "systemctl status imdsproxy-config.timer; where it is not installed: sudo imdsproxy setup",
      lasting: true,
    };
  }

  /** The same for everybody, in a few fixed words. */
  probe(): { readonly problem: string | null; readonly warning: string | null } {
    const { object } = this.#running;
    if (object !== null && object.kind !== "good")
      return { problem: "there is no object with the fleet's rules", warning: null };
    const isWell = this.finding() === null;
    return {
      problem: null,
      warning: isWell ? null : "the last poll failed, and the last good object is served",
    };
  }

  /** Null where the node takes no object. */
  counts(): ObjectCounts | null {
    const { object } = this.#running;
    if (object === null) return null;
    const state = this.#pollState();
    return {
      serial: object.kind === "good" ? object.serial : null,
      hash: object.kind === "good" ? object.hash : null,
      lastPollSuccessful: state === null ? null : state.problem === null,
      succeededAtMs: state?.succeededAtMs ?? null,
    };
  }

  /** For `imdsproxy status`; null where the node takes no object. */
  status(): StatusObject | null {
    const { config, object } = this.#running;
    if (config.config == null || object === null) return null;
    const state = this.#pollState();
    const iso = (ms: number | null | undefined) => (ms == null ? null : new Date(ms).toISOString());
    return {
      source: sourceText(config.config.source),
      fleet: config.config.fleet,
      serial: object.kind === "good" ? object.serial : null,
      hash: object.kind === "good" ? object.hash : null,
      polled: iso(state?.checkedAtMs),
      succeeded: iso(state?.succeededAtMs),
    };
  }

  /** For lines of the log: nothing where the node takes no object. */
  logged(): Readonly<Record<string, string | number>> {
    const { object } = this.#running;
    return object === null
      ? {}
      : object.kind === "good"
        ? { serial: object.serial, hash: object.hash }
        : { object: object.kind };
  }

  #pollState(): PollState | null {
    return this.#sources.pollState(objectDirectory(this.#running.config));
  }
}

const hashIn = ({ object }: LoadedConfig): string | null => (object?.kind === "good" ? object.hash : null);
