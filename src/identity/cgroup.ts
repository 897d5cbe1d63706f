import type { Clock } from "../platform/clock.ts";
import { KnownCgroups } from "./known-cgroups.ts";

/**
 * A cgroup's id -> its path -> the Slurm job. The id comes with the socket; it is the inode number of the cgroup's
 * directory (kernfs_id in linux/kernfs.h, on 64-bit systems) and is never given twice.
 */

/** One directory of the tree. */
export interface Cgroup {
  readonly id: bigint;
  /** Below the mount, beginning with a slash. */
  readonly path: string;
  /** Whether users can make cgroups in it. */
  readonly place: boolean;
}

/**
 * The tree of cgroup v2; src/identity/cgroup-tree.ts is the real one. It has two parts, because users make cgroups by the
 * hundred thousand where they may: the places that a user can fill, and what is outside of them.
 *
 * Who stops reading a pass abandons it; it keeps nothing open.
 */
export interface CgroupTree {
  /** What is outside of users' places, from the root down, with each place's own directory and nothing below that. */
  outside(): AsyncIterable<Cgroup>;
  /** What is in a place, from the top down, up to a budget that each place has for itself. */
  below(place: string): AsyncIterable<Cgroup>;
}

/** How long it is known that there is no such cgroup, in milliseconds, and of how many. */
const ABSENT_LIFE_MS = 1_000;
const MAX_ABSENT = 4_096;
/** Work on end, in milliseconds, after which there is a pause of the same length, but no longer than the other. */
const STRETCH_MS = 100;
const MAX_PAUSE_MS = 300;

/** Who waits for an id. Times here are ticks: they count requests and passes, in the order of their beginning. */
interface Waiter {
  readonly asked: number;
  readonly promise: Promise<string | null>;
  readonly answer: (path: string | null) => void;
  readonly fail: (error: unknown) => void;
}

/** The walk of one place. */
interface Lane {
  /** The pass that is under way. */
  pass: AsyncIterator<Cgroup> | null;
  /** When the latest pass began, and when the latest one that is over did. 0: never. */
  began: number;
  completed: number;
}

/**
 * Paths by id, from memory or by a walk of the tree; one walk for all who wait, which ends when nobody does.
 *
 * A walk goes through what is outside of users' places, and then through the places in turns, one cgroup each, so that
 * nobody waits for what another has made. An id is answered when it is met. There is none where it was not met by passes
 * that all began after the request: an earlier one may have passed the place where the cgroup is by now. So, while the
 * places are walked, each part begins anew for those who came later; nobody waits for the end of another's place.
 */
export class Cgroups {
  readonly #tree: CgroupTree;
  readonly #clock: Clock;
  readonly #known = new KnownCgroups();
  /** Id -> since when, oldest first. It stays true: a cgroup is older than any socket in it. */
  readonly #absent = new Map<bigint, number>();
  readonly #waiting = new Map<bigint, Waiter>();
  #tick = 0;
  #working = false;
  #stretchMs = 0;
  /** What the last walk has to pause for, where it did not find all. */
  #restUntilMs = Number.NEGATIVE_INFINITY;

  constructor(tree: CgroupTree, clock: Clock) {
    this.#tree = tree;
    this.#clock = clock;
  }

  /** The path, or null where there is no such cgroup any more, or where its place has more than a walk goes through. */
  resolve(id: bigint): string | null | Promise<string | null> {
    const path = this.#known.get(id);
    if (path !== undefined) return path;
    if (this.#isAbsent(id)) return null;
    const waiter = this.#waiting.get(id);
    // The cgroup was there before the first of those who ask for it, so the answer is good for the later ones too.
    if (waiter !== undefined) return waiter.promise;
    const { promise, resolve: answer, reject: fail } = Promise.withResolvers<string | null>();
    this.#waiting.set(id, { asked: ++this.#tick, promise, answer, fail });
    if (!this.#working) {
      this.#working = true;
      void this.#work();
    }
    return promise;
  }

  async #work(): Promise<void> {
    while (this.#waiting.size > 0) {
      try {
        await this.#pause(this.#restUntilMs - this.#clock.now());
        this.#stretchMs = this.#clock.now();
        await this.#walk();
      } catch (error) {
        for (const { fail } of this.#waiting.values()) fail(error);
        this.#waiting.clear();
      }
    }
    this.#working = false;
  }

  /** Ends when nobody waits. */
  async #walk(): Promise<void> {
    const lanes = new Map<string, Lane>();
    let outsideBegan = 0;
    let outsideLength = 0;
    let turns = 0;
    for (;;) {
      const idle = lanes.values().every(({ pass }) => pass === null);
      // As many turns in between as the last pass took: who asks for ever new ids must not hold up the places.
      if (this.#newestAsked() > outsideBegan && (idle || turns >= outsideLength)) {
        outsideBegan = ++this.#tick;
        outsideLength = await this.#passOutside(lanes);
        turns = 0;
      }
      if (this.#waiting.size === 0) return;
      const newest = this.#newestAsked();
      for (const [place, lane] of lanes) {
        if (lane.pass === null) {
          if (lane.began > newest) continue;
          lane.began = ++this.#tick;
          lane.pass = this.#tree.below(place)[Symbol.asyncIterator]();
        }
        turns++;
        await this.#turn(place, lane);
        if (this.#waiting.size === 0) return;
        await this.#breathe();
      }
      this.#answerAbsent(Math.min(outsideBegan, ...lanes.values().map(({ completed }) => completed)));
      if (this.#waiting.size === 0) return;
      await this.#breathe();
    }
  }

  /** Gives each place a lane, and takes those that are gone away. @returns how many cgroups it met. */
  async #passOutside(lanes: Map<string, Lane>): Promise<number> {
    const places = new Set<string>();
    let met = 0;
    for await (const cgroup of this.#tree.outside()) {
      met++;
      this.#meet(cgroup, cgroup.place ? cgroup.path : null);
      if (this.#waiting.size === 0) return met;
      if (cgroup.place) places.add(cgroup.path);
    }
    for (const place of lanes.keys()) if (!places.has(place)) lanes.delete(place);
    for (const place of places)
      if (!lanes.has(place)) lanes.set(place, { pass: null, began: 0, completed: 0 });
    return met;
  }

  async #turn(place: string, lane: Lane): Promise<void> {
    const next = await lane.pass?.next();
    if (next === undefined || next.done === true) {
      lane.pass = null;
      lane.completed = lane.began;
    } else {
      this.#meet(next.value, place);
    }
  }

  #meet({ id, path }: Cgroup, place: string | null): void {
    this.#known.add(id, path, place);
    this.#waiting.get(id)?.answer(path);
    this.#waiting.delete(id);
  }

  /** @param began when the earliest of the passes began that together went through the whole tree. */
  #answerAbsent(began: number): void {
    const now = this.#clock.now();
    for (const [id, { asked, answer }] of this.#waiting) {
      // They wait in the order in which they asked.
      if (asked > began) return;
      this.#waiting.delete(id);
      this.#absent.delete(id);
      this.#absent.set(id, now);
      if (this.#absent.size > MAX_ABSENT) dropFirst(this.#absent);
      this.#restUntilMs = now + Math.min(now - this.#stretchMs, MAX_PAUSE_MS);
      answer(null);
    }
  }

  #isAbsent(id: bigint): boolean {
    const since = this.#absent.get(id);
    if (since === undefined) return false;
    const ageMs = this.#clock.now() - since;
    if (ageMs >= 0 && ageMs < ABSENT_LIFE_MS) return true;
    this.#absent.delete(id);
    return false;
  }

  #newestAsked(): number {
    let newest = 0;
    for (const { asked } of this.#waiting.values()) newest = asked;
    return newest;
  }

  /** Pauses after a stretch of work, so that ids that are nowhere cost no more than half of the time. */
  async #breathe(): Promise<void> {
    const workedMs = this.#clock.now() - this.#stretchMs;
    if (workedMs >= 0 && workedMs < STRETCH_MS) return;
    await this.#pause(workedMs);
    this.#stretchMs = this.#clock.now();
  }

  async #pause(ms: number): Promise<void> {
    // The wall clock may have been set.
    if (ms > 0) await new Promise<void>((done) => this.#clock.schedule(Math.min(ms, MAX_PAUSE_MS), done));
  }
}

function dropFirst(map: Map<bigint, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key);
    return;
  }
}

/**
 * `/system.slice/slurmstepd.scope/job_12/step_0/user/task_0` (Slurm, cgroup/v2 plugin), with the node's name in front of
 * `slurmstepd.scope` where several slurmd share a machine. Only there: below user.slice users make cgroups of any name.
 */
const SLURM_JOB = /^\/system\.slice\/(?:[^/]+_)?slurmstepd\.scope\/job_(\d+)(?:\/|$)/;

/** The Slurm job of a cgroup's path, or null. */
export const slurmJobOf = (path: string | null): string | null =>
  path === null ? null : (SLURM_JOB.exec(path)?.[1] ?? null);
