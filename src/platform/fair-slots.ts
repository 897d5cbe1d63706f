/** A further condition for taking a slot: that one is free is not enough. */
export interface Gate {
  /** Milliseconds until a slot may be taken; 0 for now. */
  waitMs(): number;
  /** Called when a slot is taken. */
  passed(): void;
  /** Calls `run` after that time; the returned function cancels it. */
  schedule(delayMs: number, run: () => void): () => void;
}

/**
 * A limit on what runs at once, with a round-robin between owners: a free slot goes to the owner whose last turn was longest ago,
 * however many turns another owner has asked for, and no owner ever holds all slots.
 */
export class FairSlots<Owner> {
  readonly #limit: number;
  readonly #limitPerOwner: number;
  readonly #running = new Map<Owner, number>();
  /** In round-robin order: an owner who got a slot goes to the end. */
  readonly #waiting = new Map<Owner, (() => void)[]>();
  #inUse = 0;
  #waits = 0;
  #gate: Gate | null;
  #cancelOpening: () => void = () => {};

  /**
   * @param limit slots in all, at least 1.
   * @param limitPerOwner slots of one owner. Default: half of all, rounded up.
   * @param gate default: none.
   */
  constructor(limit: number, limitPerOwner: number = Math.ceil(limit / 2), gate: Gate | null = null) {
    this.#limit = limit;
    this.#limitPerOwner = limitPerOwner;
    this.#gate = gate;
  }

  /** Slots in use. */
  get inUse(): number {
    return this.#inUse;
  }

  /** How many wait for a slot. */
  get waiting(): number {
    return this.#waits;
  }

  /**
   * How many turns come before the last waiting call of this owner; null where no call of this owner waits. It counts the calls
   * that wait now, and assumes that every owner may have a slot. Turns are round-robin, so of another owner's queue it counts no
   * more calls than this owner has waiting.
   */
  turnsBefore(owner: Owner): number | null {
    const own = this.#waiting.get(owner)?.length ?? 0;
    if (own === 0) return null;
    let turns = own - 1;
    let isAhead = true;
    for (const [other, queue] of this.#waiting) {
      if (other === owner) isAhead = false;
      else turns += Math.min(queue.length, isAhead ? own : own - 1);
    }
    return turns;
  }

  /** Removes the gate for good. */
  removeGate(): void {
    this.#gate = null;
    this.#cancelOpening();
    this.#fill();
  }

  /** Resolves when it is the owner's turn, to a function that gives the slot back. The caller must call it exactly once. */
  acquire(owner: Owner): Promise<() => void> {
    return new Promise((resolve) => {
      this.wait(owner, resolve);
    });
  }

  /**
   * Calls `start` when it is the owner's turn, at once where a slot is free, with a function that gives the slot back and must be called
   * exactly once.
   *
   * @returns a function that takes the call out of the queue; it does nothing once `start` was called.
   */
  wait(owner: Owner, start: (release: () => void) => void): () => void {
    const begin = () => start(() => this.#release(owner));
    const queue = this.#waiting.get(owner) ?? [];
    queue.push(begin);
    this.#waiting.set(owner, queue);
    this.#waits++;
    this.#fill();
    return () => {
      const waiting = this.#waiting.get(owner) ?? [];
      const at = waiting.indexOf(begin);
      if (at === -1) return;
      waiting.splice(at, 1);
      if (waiting.length === 0) this.#waiting.delete(owner);
      this.#waits--;
    };
  }

  #release(owner: Owner): void {
    const left = (this.#running.get(owner) ?? 0) - 1;
    if (left > 0) this.#running.set(owner, left);
    else this.#running.delete(owner);
    this.#inUse--;
    this.#fill();
  }

  #fill(): void {
    for (const [owner, queue] of this.#waiting) {
      if (this.#inUse >= this.#limit) return;
      const running = this.#running.get(owner) ?? 0;
      if (running >= this.#limitPerOwner) continue;
      if (!this.#mayPass()) return;
      const start = queue.shift();
      // Deleting and setting again moves the owner to the end; the loop then meets it again, last.
      this.#waiting.delete(owner);
      if (start === undefined) continue;
      if (queue.length > 0) this.#waiting.set(owner, queue);
      this.#running.set(owner, running + 1);
      this.#inUse++;
      this.#waits--;
      this.#gate?.passed();
      start();
    }
  }

  #mayPass(): boolean {
    this.#cancelOpening();
    const waitMs = this.#gate?.waitMs() ?? 0;
    if (waitMs <= 0) return true;
    // Rounded up to whole milliseconds. A fraction may be lost when it is added to a date, and the timer would then fire again at
    // once.
    this.#cancelOpening = this.#gate?.schedule(Math.ceil(waitMs), () => this.#fill()) ?? this.#cancelOpening;
    return false;
  }
}
