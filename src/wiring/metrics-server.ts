import { type Answer, errorPage, text } from "../http/answer.ts";
import type { RequestHandler } from "../http/connection.ts";
import type { Request } from "../http/request.ts";
import { type ConnectionLimits, Server } from "../http/server.ts";
import type { Subject } from "../identity/caller.ts";
import type { SocketLookup } from "../identity/lookup.ts";
import { NO_STORE } from "../platform/socket-store.ts";
import { METRICS_TYPE, type Metrics } from "../telemetry/metrics.ts";
import { type Check, liveness, type ProbeSources, probeAnswer, readiness } from "./probes.ts";

/** Milliseconds for which a text is served again: to make one costs as much as twenty requests. */
const KEEP_MS = 1_000;
/** A scraper has one connection. It may be on another machine, so that it cannot be identified. */
export const METRICS_LIMITS: ConnectionLimits = { perUser: 8, shared: 0, unknown: 16, total: 128 };

/** What is answered at one path. */
type Page = () => Promise<Answer>;

/** Answers GET of the metrics and the probes, whoever asks. */
class MetricsHandler implements RequestHandler {
  readonly #pages: ReadonlyMap<string, Page>;

  constructor(pages: Readonly<Record<string, Page>>, monotonicMs: () => number) {
    this.#pages = new Map(Object.entries(pages).map(([path, page]) => [path, kept(page, monotonicMs)]));
  }

  async handle(request: Request): Promise<Answer> {
    const page = this.#pages.get(request.target.replace(/\?.*$/s, ""));
    if ((request.method !== "GET" && request.method !== "HEAD") || page === undefined) return errorPage(404);
    try {
      return await page();
    } catch {
      return errorPage(503);
    }
  }
}

/** The page, made again where the last one is older than {@link KEEP_MS}; all who ask meanwhile wait for the same. */
function kept(page: Page, monotonicMs: () => number): Page {
  let made: { readonly answer: Promise<Answer>; readonly atMs: number } | null = null;
  return () => {
    const now = monotonicMs();
    if (made === null || now - made.atMs >= KEEP_MS) made = { answer: page(), atMs: now };
    return made.answer;
  };
}

const probePage = (name: string, checks: () => Promise<Check[]> | Check[]): Page =>
  async function answer() {
    const { status, text: body } = probeAnswer(name, await checks());
    return { ...text(body), status };
  };

/**
 * The server of the metrics, which does not listen yet. It is the same HTTP server as that of the metadata service, with its
 * limits for each user: both share an event loop and open files, so that exhausting one would exhaust the other.
 */
export function metricsServerOf(options: {
  metrics: Pick<Metrics, "text">;
  probes: ProbeSources;
  lookup: SocketLookup;
  monotonicMs: () => number;
  shareOfUid: (uid: number) => Subject;
}): Server {
  const { metrics, probes, monotonicMs } = options;
  const pages = {
    "/metrics": async () => ({ status: 200, contentType: METRICS_TYPE, body: await metrics.text() }),
    "/healthz": probePage("healthz", () => liveness(probes)),
    "/readyz": probePage("readyz", () => readiness(probes)),
  };
  return new Server({
    handler: new MetricsHandler(pages, monotonicMs),
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
