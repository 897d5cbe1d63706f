import { type Answer, errorPage, METRICS_TYPE } from "../http/answer.ts";
import type { RequestHandler } from "../http/connection.ts";
import type { Request } from "../http/request.ts";
import { type ConnectionLimits, Server } from "../http/server.ts";
import type { Subject } from "../identity/caller.ts";
import type { SocketLookup } from "../identity/lookup.ts";
import { NO_STORE } from "../platform/socket-store.ts";
import type { Metrics } from "../telemetry/metrics.ts";

/** Milliseconds that a text is good for: to make one takes as long as twenty requests. */
const KEEP_MS = 1_000;
/** A scraper has one connection; it may also come from outside of the node, where nobody can say who it is. */
export const METRICS_LIMITS: ConnectionLimits = { perUser: 8, unknown: 16, total: 128 };

/** Answers `GET /metrics`, whoever asks. */
class MetricsHandler implements RequestHandler {
  readonly #metrics: Pick<Metrics, "text">;
  readonly #monotonicMs: () => number;
  #made: { readonly text: Promise<string>; readonly atMs: number } | null = null;

  constructor(metrics: Pick<Metrics, "text">, monotonicMs: () => number) {
    this.#metrics = metrics;
    this.#monotonicMs = monotonicMs;
  }

  async handle(request: Request): Promise<Answer> {
    const path = request.target.replace(/\?.*$/s, "");
    if ((request.method !== "GET" && request.method !== "HEAD") || path !== "/metrics") return errorPage(404);
    const now = this.#monotonicMs();
    if (this.#made === null || now - this.#made.atMs >= KEEP_MS) {
      this.#made = { text: this.#metrics.text(), atMs: now };
    }
    return this.#made.text.then(
      (body) => ({ status: 200, contentType: METRICS_TYPE, body }),
      () => errorPage(503),
    );
  }
}

/**
 * The server of the metrics, which listens nowhere yet: the same as the metadata service's, with its limits for each user.
 * They share an event loop and open files, so whoever could exhaust this port would exhaust the other.
 */
export function metricsServerOf(options: {
  metrics: Pick<Metrics, "text">;
  lookup: SocketLookup;
  monotonicMs: () => number;
  shareOfUid: (uid: number) => Subject;
}): Server {
  return new Server({
    handler: new MetricsHandler(options.metrics, options.monotonicMs),
    lookup: options.lookup,
    monotonicMs: options.monotonicMs,
    limits: METRICS_LIMITS,
    sharePort: false,
    store: NO_STORE,
    shareOfUid: options.shareOfUid,
    isContainer: () => false,
    onUnidentified: () => {},
  });
}
