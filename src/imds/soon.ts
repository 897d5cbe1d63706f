/** What a step gives: at once where nothing has to be waited for. See docs/benchmarks.md for what promises cost. */
export type Soon<T> = T | Promise<T>;

/** Goes on with what a step gives. */
export const next = <T, U>(given: Soon<T>, goOn: (value: T) => Soon<U>): Soon<U> =>
  given instanceof Promise ? given.then(goOn) : goOn(given);
