/** The signals by which a person or a terminal that is closed ends a command. */
export const ENDING_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * The result of `work`, unless one of {@link ENDING_SIGNALS} comes first: then it is not waited for.
 *
 * @param error what to throw then.
 */
export async function unlessInterrupted<T>(work: () => Promise<T>, error: () => Error): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onSignal = () => reject(error());
  for (const signal of ENDING_SIGNALS) process.on(signal, onSignal);
  try {
    return await Promise.race([work(), promise]);
  } finally {
    for (const signal of ENDING_SIGNALS) process.off(signal, onSignal);
  }
}
