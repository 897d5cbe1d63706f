import type { Clock } from "../platform/clock.ts";
import { KnownCgroups } from "./known-cgroups.ts";

/**
 * Finds a cgroup's path by its id, and in the path the Slurm job. The kernel tells a socket's cgroup by id: the inode number of
 * the cgroup's directory (kernfs_id in linux/kernfs.h, on 64-bit systems). An id is never reused.
 */

/** One directory of the tree. */
export interface Cgroup {
  readonly id: bigint;
  /** The path below the mount, with a slash at its start. */
  readonly path: string;
  /** Whether it is the top of a user subtree: a user can make cgroups in it. */
  readonly subtree: boolean;
}

/**
 * The tree of cgroup v2; src/identity/cgroup-tree.ts implements it. It has two parts, because users can make cgroups by the
 * hundred thousand: the user subtrees, each of which one user can fill, and all the rest.
 *
 * A pass may be abandoned at any time: it keeps nothing open.
 */
export interface CgroupTree {
  /** Everything outside of the user subtrees, from the root down; of each user subtree the top directory alone. */
  outside(): AsyncIterable<Cgroup>;
  /** A user subtree from its top down, up to a budget that each subtree has for itself. */
  below(subtree: string): AsyncIterable<Cgroup>;
  /**
   * Whether the path still is the cgroup with this id; true where that cannot be found out. Synchronous: it takes two
   * microseconds, and an asynchronous call needs a thread, which a node without a free process may not have.
   */
  isThere(path: string, id: bigint): boolean;
}

/** Milliseconds for which a cgroup is taken to exist after it was seen. */
const SEEN_LIFE_MS = 1_000;
/** Milliseconds for which an absent id is remembered, and how many of them. */
const ABSENT_LIFE_MS = 1_000;
const MAX_ABSENT = 4_096;
/** Milliseconds of uninterrupted work. A pause of the same length follows, at most MAX_PAUSE_MS. */
const STRETCH_MS = 100;
const MAX_PAUSE_MS = 300;

/** A request that waits for an id. Its time is a tick: a counter of requests and passes, in the order of their start. */
interface Waiter {
  readonly asked: number;
  readonly promise: Promise<string | null>;
  readonly answer: (path: string | null) => void;
  readonly fail: (error: unknown) => void;
}

/** The state of the walk of one user subtree. */
interface SubtreeWalk {
  /** The pass under way, or null. */
  pass: AsyncIterator<Cgroup> | null;
  /** The ticks at which the latest pass, and the latest completed pass, began; 0 for none. */
  began: number;
  completed: number;
}

/**
 * Paths by id, from memory or by a walk of the tree. All requests share one walk, which ends when none waits.
 *
 * A walk first passes through everything outside of the user subtrees, and then through the user subtrees in round-robin
 * order, one cgroup each, so that no request waits for the cgroups that another user has made. A request is answered as soon
 * as its id is met. An id is absent once every part of the tree was passed completely by a pass that began after the request:
 * an earlier pass may have been beyond the directory where the cgroup was made since. So while the walk goes on, each part
 * begins a new pass for later requests as soon as its pass is complete, and waits for no other part.
 */
export class Cgroups {
  readonly #tree: CgroupTree;
  readonly #clock: Clock;
  readonly #known = new KnownCgroups();
  /** Absent ids and when they were found to be, oldest first. An absent id stays absent: a cgroup is older than its sockets. */
  readonly #absent = new Map<bigint, number>();
  readonly #waiting = new Map<bigint, Waiter>();
  #tick = 0;
  #working = false;
  #stretchMs = 0;
  /** When the next walk may begin: a walk that did not find every id is followed by a pause. */
  #pauseUntilMs = Number.NEGATIVE_INFINITY;

  constructor(tree: CgroupTree, clock: Clock) {
    this.#tree = tree;
    this.#clock = clock;
  }

  /**
   * The path; null where the cgroup is gone, or beyond the budget of its user subtree. A socket keeps the cgroup in which it was
   * made, even where another process has the socket now (unix(7), SCM_RIGHTS). So when a job ends, its sockets lose the job's
   * cgroup, at most a second later.
   */
  resolve(id: bigint): string | null | Promise<string | null> {
    const known = this.#known.get(id);
    if (known !== undefined) {
      const nowMs = this.#clock.now();
      const ageMs = nowMs - known.seenAtMs;
      if (!known.hasEnded && (ageMs < 0 || ageMs >= SEEN_LIFE_MS)) {
        known.seenAtMs = nowMs;
        known.hasEnded = !this.#tree.isThere(known.path, id);
      }
      return known.hasEnded ? null : known.path;
    }
    if (this.#isAbsent(id)) return null;
    const waiter = this.#waiting.get(id);
    // The cgroup is older than the first request for it, so the first request's answer holds for later ones too.
    if (waiter !== undefined) return waiter.promise;
    const { promise, resolve: answer, reject: fail } = Promise.withResolvers<string | null>();
    this.#waiting.set(id, { asked: ++this.#tick, promise, answer, fail });
    if (!this.#working) {
      this.#working = true;
      void this.#work();
    }
    return promise;
  }

  /**
   * The topmost directory of a cgroup's path in which a user can make others; null where there is none. It is as of the moment
   * when the walk met the cgroup: a cgroup that is older than the user's right to make any was not made by the user. `/` where
   * the cgroup is not in memory any more, so that nobody gains by its eviction.
   *
   * @param id of a cgroup that {@link resolve} has found.
   */
  writableAbove(id: bigint): string | null {
    const known = this.#known.get(id);
    return known === undefined ? "/" : known.subtree;
  }

  async #work(): Promise<void> {
    while (this.#waiting.size > 0) {
      try {
        await this.#pause(this.#pauseUntilMs - this.#clock.now());
        this.#stretchMs = this.#clock.now();
        await this.#walk();
      } catch (error) {
        for (const { fail } of this.#waiting.values()) fail(error);
        this.#waiting.clear();
      }
    }
    this.#working = false;
  }

  /** Walks the tree until no request waits. */
  async #walk(): Promise<void> {
    const walks = new Map<string, SubtreeWalk>();
    let outsideBegan = 0;
    let outsideLength = 0;
    let turns = 0;
    for (;;) {
      const idle = walks.values().every(({ pass }) => pass === null);
      // The subtrees get as many turns as the last pass outside took, so that ever new ids do not starve them.
      if (this.#newestAsked() > outsideBegan && (idle || turns >= outsideLength)) {
        outsideBegan = ++this.#tick;
        outsideLength = await this.#passOutside(walks);
        turns = 0;
      }
      if (this.#waiting.size === 0) return;
      const newest = this.#newestAsked();
      for (const [subtree, walk] of walks) {
        if (walk.pass === null) {
          if (walk.began > newest) continue;
          walk.began = ++this.#tick;
          walk.pass = this.#tree.below(subtree)[Symbol.asyncIterator]();
        }
        turns++;
        await this.#turn(subtree, walk);
        if (this.#waiting.size === 0) return;
        await this.#pauseIfDue();
      }
      this.#answerAbsent(Math.min(outsideBegan, ...walks.values().map(({ completed }) => completed)));
      if (this.#waiting.size === 0) return;
      await this.#pauseIfDue();
    }
  }

  /** Passes outside of the user subtrees, and updates the list of them. @returns how many cgroups it met. */
  async #passOutside(walks: Map<string, SubtreeWalk>): Promise<number> {
    const subtrees = new Set<string>();
    let met = 0;
    for await (const cgroup of this.#tree.outside()) {
      met++;
      this.#meet(cgroup, cgroup.subtree ? cgroup.path : null);
      if (this.#waiting.size === 0) return met;
      if (cgroup.subtree) subtrees.add(cgroup.path);
    }
    for (const subtree of walks.keys()) if (!subtrees.has(subtree)) walks.delete(subtree);
    for (const subtree of subtrees)
      if (!walks.has(subtree)) walks.set(subtree, { pass: null, began: 0, completed: 0 });
    return met;
  }

  async #turn(subtree: string, walk: SubtreeWalk): Promise<void> {
    const next = await walk.pass?.next();
    if (next === undefined || next.done === true) {
      walk.pass = null;
      walk.completed = walk.began;
    } else {
      this.#meet(next.value, subtree);
    }
  }

  #meet({ id, path }: Cgroup, subtree: string | null): void {
    this.#known.add(id, path, subtree, this.#clock.now());
    this.#waiting.get(id)?.answer(path);
    this.#waiting.delete(id);
  }

  /**
   * Answers null to requests whose id is in no part of the tree.
   *
   * @param began the tick at which the earliest of the passes began that together covered the whole tree.
   */
  #answerAbsent(began: number): void {
    const now = this.#clock.now();
    for (const [id, { asked, answer }] of this.#waiting) {
      // Requests stand in the order in which they were made.
      if (asked > began) return;
      this.#waiting.delete(id);
      this.#absent.delete(id);
      this.#absent.set(id, now);
      if (this.#absent.size > MAX_ABSENT) dropFirst(this.#absent);
      this.#pauseUntilMs = now + Math.min(now - this.#stretchMs, MAX_PAUSE_MS);
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

  /** Pauses after STRETCH_MS of work, so that requests for absent ids use no more than half of the time. */
  async #pauseIfDue(): Promise<void> {
    const workedMs = this.#clock.now() - this.#stretchMs;
    if (workedMs >= 0 && workedMs < STRETCH_MS) return;
    await this.#pause(workedMs);
    this.#stretchMs = this.#clock.now();
  }

  async #pause(ms: number): Promise<void> {
    // The clock may have been set meanwhile, so the pause is bounded.
    if (ms > 0) await new Promise<void>((done) => this.#clock.schedule(Math.min(ms, MAX_PAUSE_MS), done));
  }
}

function dropFirst(map: Map<bigint, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key);
    return;
  }
}
