/**
 * The signals of the service. An unhandled signal ends the process, so the handlers are installed before anything else is
 * loaded. A SIGHUP that comes while the proxy starts is remembered until the configuration can be loaded again.
 */
export class Signals {
  #reload: (() => void) | null = null;
  #reloadWanted = false;

  constructor() {
    process.on("SIGHUP", () => {
      if (this.#reload === null) this.#reloadWanted = true;
      else this.#reload();
    });
    // Left alone they end the process; in other runtimes of this kind the first opens a debugger.
    for (const signal of ["SIGUSR1", "SIGUSR2"] as const) process.on(signal, () => {});
  }

  /** Calls `run` at each SIGHUP, and now if one has come already. */
  onReload(run: () => void): void {
    this.#reload = run;
    if (!this.#reloadWanted) return;
    this.#reloadWanted = false;
    run();
  }

  /** From now on SIGTERM and SIGINT do not end the process: the first of them resolves the promise to its name. */
  untilStopped(): Promise<string> {
    const stopped = Promise.withResolvers<string>();
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stopped.resolve(signal));
    return stopped.promise;
  }
}
