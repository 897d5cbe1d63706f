import type { Config } from "../config/schema.ts";
import { type Endpoint, endpointText } from "../identity/endpoint.ts";
import { type Clock, every } from "../platform/clock.ts";
import type { Finding } from "../telemetry/health.ts";
import type { Log } from "../telemetry/log.ts";
import { OptionalListener } from "./optional-listener.ts";

/** Milliseconds between two looks for endpoints that have become possible, because IPv6 was switched on. */
const LOOK_MS = 10_000;

export interface ServedEndpointsOptions {
  /** Begins to listen at one more. @throws ImdsProxyError where it cannot. */
  readonly listen: (endpoint: Endpoint) => void;
  /** Where a configuration has the proxy listen, on the node as it is now. */
  readonly endpointsOf: (config: Config) => readonly Endpoint[];
  readonly log: Log;
  readonly clock: Clock;
}

/**
 * Where the proxy listens. Another `listen` of a configuration that is loaded again is served at once, because the firewall leads users
 * there within seconds; what was served before is closed at the next start. An IPv6 endpoint is served as soon as the node has IPv6.
 */
export class ServedEndpoints {
  readonly #options: ServedEndpointsOptions;
  /** By the text of the endpoint; null for the one without which the proxy does not start. */
  readonly #served = new Map<string, OptionalListener | null>();
  #wanted: Config;
  #stop: () => void = () => {};

  /**
   * Listens at all of them.
   *
   * @throws ImdsProxyError where it cannot listen at the first; the others are optional, and tried again.
   */
  constructor(config: Config, options: ServedEndpointsOptions) {
    this.#options = options;
    this.#wanted = config;
    const [first, ...further] = options.endpointsOf(config);
    if (first === undefined) return;
    options.listen(first);
    this.#served.set(endpointText(first), null);
    for (const one of further) this.#add(one);
  }

  /** Looks at intervals for endpoints that have become possible, until {@link stop}. */
  start(): void {
    this.#stop = every(LOOK_MS, () => this.look());
  }

  /** Serves the endpoints of a configuration that was loaded again, besides those that are served. */
  follow(config: Config): void {
    this.#wanted = config;
    this.look();
  }

  /** Serves what is wanted and not served yet, and gives up what could not be served and is wanted no more. */
  look(): void {
    const wanted = new Map(this.#options.endpointsOf(this.#wanted).map((one) => [endpointText(one), one]));
    for (const [where, listener] of this.#served) {
      if (wanted.has(where) || listener === null || listener.finding() === null) continue;
      listener.stop();
      this.#served.delete(where);
    }
    for (const [where, one] of wanted) {
      if (this.#served.has(where)) continue;
      this.#options.log.info("listens at one more address", { listen: where });
      this.#add(one);
    }
  }

  /** All of them, as text. */
  all(): readonly string[] {
    return [...this.#served.keys()];
  }

  /** What is wrong; null where each is served. */
  finding(): Finding | null {
    for (const listener of this.#served.values()) {
      const finding = listener?.finding() ?? null;
      if (finding !== null) return finding;
    }
    return null;
  }

  stop(): void {
    this.#stop();
    for (const listener of this.#served.values()) listener?.stop();
  }

  #add(endpoint: Endpoint): void {
    const { listen, log, clock } = this.#options;
    const where = endpointText(endpoint);
    const listener = new OptionalListener({
      what: `the proxy at ${where}`,
      remedy: null,
      listen: () => listen(endpoint),
      log,
      clock,
    });
    this.#served.set(where, listener);
  }
}
