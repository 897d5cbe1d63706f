import { type Answer, errorPage } from "../http/answer.ts";
import type { RequestHandler } from "../http/connection.ts";
import type { Request } from "../http/request.ts";
import { type ConnectionLimits, Server } from "../http/server.ts";
import type { Subject } from "../identity/caller.ts";
import type { SocketLookup } from "../identity/lookup.ts";
import { NO_STORE } from "../platform/socket-store.ts";
import { METRICS_TYPE, type Metrics } from "../telemetry/metrics.ts";

/** Milliseconds for which a text is served again: to make one costs as much as twenty requests. */
const KEEP_MS = 1_000;
/** A scraper has one connection. It may be on another machine, so that it cannot be identified. */
export const METRICS_LIMITS: ConnectionLimits = { perUser: 8, shared: 0, unknown: 16, total: 128 };

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
    try {
      return { status: 200, contentType: METRICS_TYPE, body: await this.#made.text };
    } catch {
      return errorPage(503);
    }
  }
}

/**
 * The server of the metrics, which does not listen yet. It is the same HTTP server as that of the metadata service, with its
 * limits for each user: both share an event loop and open files, so that exhausting one would exhaust the other.
 */
export function metricsServerOf(options: {
  metrics: Pick<Metrics, "text">;
  lookup: SocketLookup;
  monotonicMs: () => number;
  shareOfUid: (uid: number) => Subject;
}): Server {
  return new Server({
    handler: new MetricsHandler(options.metrics, options.monotonicMs),
    serverName: "imdsproxy",
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
