/**
 * A map that mostly has one entry. It then takes 48 bytes, where a Map takes 250 with its table (JavaScriptCore's smallest has
 * eight places). For data that is kept with each session or each user.
 */
export class SmallMap<K, V> {
  #size = 0;
  #key: K | undefined;
  #value: V | undefined;
  /** All entries, from the second one on. */
  #all: Map<K, V> | null = null;

  get size(): number {
    return this.#all === null ? this.#size : this.#all.size;
  }

  get(key: K): V | undefined {
    if (this.#all !== null) return this.#all.get(key);
    return this.#size === 1 && this.#key === key ? this.#value : undefined;
  }

  set(key: K, value: V): void {
    if (this.#all !== null) {
      this.#all.set(key, value);
      return;
    }
    if (this.#size === 1 && this.#key !== key) {
      this.#all = new Map<K, V>([
        [this.#key as K, this.#value as V],
        [key, value],
      ]);
      this.#key = this.#value = undefined;
      return;
    }
    this.#size = 1;
    this.#key = key;
    this.#value = value;
  }

  clear(): void {
    this.#all = null;
    this.#size = 0;
    this.#key = this.#value = undefined;
  }
}
