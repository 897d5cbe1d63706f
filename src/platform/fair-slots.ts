/**
 * A limit on what runs at once, with a round-robin between owners: a free slot goes to the owner whose last turn is the
 * longest ago, however many turns another has asked for, and no owner ever holds all slots.
 */
export class FairSlots<Owner> {
  readonly #limit: number;
  readonly #limitPerOwner: number;
  readonly #running = new Map<Owner, number>();
  /** In round-robin order: an owner who got a slot goes to the end. */
  readonly #waiting = new Map<Owner, (() => void)[]>();
  #inUse = 0;

  /**
   * @param limit slots in all, at least 1.
   * @param limitPerOwner slots of one owner. Default: half of all, rounded up.
   */
  constructor(limit: number, limitPerOwner: number = Math.ceil(limit / 2)) {
    this.#limit = limit;
    this.#limitPerOwner = limitPerOwner;
  }

  /** Slots in use. */
  get inUse(): number {
    return this.#inUse;
  }

  /** Resolves, when it is the owner's turn, to the function that gives the slot back; it has to be called once. */
  acquire(owner: Owner): Promise<() => void> {
    return new Promise((resolve) => {
      const queue = this.#waiting.get(owner) ?? [];
      queue.push(() => resolve(() => this.#release(owner)));
      this.#waiting.set(owner, queue);
      this.#fill();
    });
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
      const start = queue.shift();
      // Deleting and setting again moves the owner to the end; the loop then meets it again, last.
      this.#waiting.delete(owner);
      if (start === undefined) continue;
      if (queue.length > 0) this.#waiting.set(owner, queue);
      this.#running.set(owner, running + 1);
      this.#inUse++;
      start();
    }
  }
}
