import { type LoadedConfig, withCopy } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import { ImdsProxyError, isPassing } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { FleetObject } from "./fleet-object.ts";
import type { LoadedConfiguration } from "./loaded-configuration.ts";

/** The wait before a configuration that could not be read for a moment is read again. */
const AGAIN_MS = 1_000;

/** Keys that are read at the start alone; of `imds`, `tokens` is. `listen` is served at once: see served-endpoints.ts. */
const AT_START = ["upstream", "region", "sts", "metrics", "stateDirectory", "imds", "limits", "log"] as const;
/** Keys of the firewall's rules, which the watch brings up to date by itself. */
const OF_FIREWALL = ["containers", "exempt"] as const;

export interface ReloaderOptions {
  /** Loads the file, and the object with it. @throws ImdsProxyError. */
  readonly load: () => LoadedConfig;
  /** Refuses what others can write. @throws ImdsProxyError. */
  readonly closed: (loaded: LoadedConfig) => LoadedConfig;
  /** The configuration of the start. */
  readonly atStart: Config;
  readonly fleetObject: FleetObject;
  readonly loadedConfiguration: LoadedConfiguration;
  /** Called before the file is read. */
  readonly onReading: () => void;
  /** Puts a configuration into effect. @throws ImdsProxyError where it cannot be; nothing may have changed then. */
  readonly take: (config: Config) => void;
  readonly log: Log;
  readonly clock: Pick<Clock, "schedule">;
}

/** Loads the configuration again. One that is refused changes nothing. */
export class Reloader {
  readonly #options: ReloaderOptions;
  #cancel: () => void = () => {};

  constructor(options: ReloaderOptions) {
    this.#options = options;
  }

  /** @param what the object alone is loaded with the file that runs: an edit of the file waits until the administrator has it loaded. */
  reload(what: "file" | "object" = "file"): void {
    this.#attempt(what, false);
  }

  /** Gives up an attempt that is to come. */
  stop(): void {
    this.#cancel();
  }

  /** @param isAgain whether the last attempt failed for a moment only, and has said so. */
  #attempt(what: "file" | "object", isAgain: boolean): void {
    const { loadedConfiguration, onReading } = this.#options;
    this.#cancel();
    if (what === "file") {
      onReading();
      loadedConfiguration.reading();
    }
    let fresh: Config;
    try {
      fresh = this.#load(what);
    } catch (error) {
      this.#refused(error, what, isAgain);
      return;
    }
    loadedConfiguration.loaded(what);
    this.#tell(fresh);
  }

  #load(what: "file" | "object"): Config {
    const { load, closed, fleetObject, take } = this.#options;
    const { running } = fleetObject;
    const found = what === "file" ? load() : closed(withCopy(running.file, running.object?.path));
    requireObject(found, running);
    take(found.config);
    fleetObject.loaded(found);
    return found.config;
  }

  #refused(error: unknown, what: "file" | "object", isAgain: boolean): void {
    const { loadedConfiguration, fleetObject, log, clock } = this.#options;
    const known = error instanceof ImdsProxyError ? error : null;
    const problem = known?.problem ?? "internal error";
    loadedConfiguration.refused(problem, what);
    if (what === "object") fleetObject.refused(problem, known?.remedy ?? null);
    const passes = isPassing(known?.cause);
    if (!passes || !isAgain)
      log.error("the configuration was not reloaded: the previous one stays in effect", {
        problem,
        ...(passes ? { again: "each second" } : {}),
      });
    // Whoever sent the signal does not learn that there was no descriptor, and would not send it again.
    if (passes) this.#cancel = clock.schedule(AGAIN_MS, () => this.#attempt(what, true));
  }

  #tell(fresh: Config): void {
    const { atStart, fleetObject, log } = this.#options;
    log.info("the configuration was loaded again", { rules: fresh.rules.length, ...fleetObject.logged() });
    const needRestart = AT_START.filter((key) => textOf(fresh, key) !== textOf(atStart, key));
    if (needRestart.length > 0)
      log.warn("these keys take effect at the next start", { keys: needRestart.join(", ") });
    const ofFirewall = OF_FIREWALL.filter((key) => textOf(fresh, key) !== textOf(atStart, key));
    if (ofFirewall.length > 0) {
      log.warn("the firewall rules follow these keys already, and the proxy does so at its next start", {
        keys: ofFirewall.join(", "),
        remedy: "sudo systemctl restart imdsproxy",
      });
    }
  }
}

const textOf = (config: Config, key: (typeof AT_START | typeof OF_FIREWALL)[number]): string =>
  JSON.stringify(key === "imds" ? config.imds.tokens : config[key]);

/** Keeps the rules that run where the copy of the object is gone or cannot be used. @throws ImdsProxyError `config`. */
function requireObject({ object }: LoadedConfig, running: LoadedConfig): void {
  if (running.object?.kind !== "good" || object === null || object.kind === "good") return;
  if (object.kind === "unusable") throw new ImdsProxyError("config", object.problem, object.remedy);
  throw new ImdsProxyError(
    "config",
    `the copy of the fleet's object is gone: ${object.path}`,
    "fetch it again: sudo imdsproxy config fetch",
  );
}
