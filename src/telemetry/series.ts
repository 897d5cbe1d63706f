import type { Registry } from "prom-client";

/**
 * Counters and histograms that each request updates. prom-client sorts and joins the labels of each event anew, which costs about
 * a microsecond. Here a key finds the series, and its labels are made once. prom-client's own counters and histograms also load
 * OpenTelemetry, for exemplars, which we do not use.
 */

type Labels = Readonly<Record<string, string>>;

/** One value as prom-client's Registry prints it. */
interface Value {
  readonly metricName?: string;
  readonly labels: Labels;
  readonly value: number;
}

/** What prom-client's Registry needs of a metric (prom-client, lib/registry.js: getMetricsAsString). */
interface Printable {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "histogram";
  readonly values: readonly Value[];
}

function register(registry: Registry, name: string, get: () => Printable): void {
  const metric = { name, get: async () => get() };
  registry.registerMetric(metric as unknown as Parameters<Registry["registerMetric"]>[0]);
}

/** A counter with labels. */
export class CounterSeries<Key extends string | number> {
  readonly #cells = new Map<Key, { readonly labels: Labels; count: number }>();

  constructor(registry: Registry, name: string, help: string) {
    register(registry, name, () => ({
      name,
      help,
      type: "counter",
      values: [...this.#cells.values()].map(({ labels, count }) => ({ labels, value: count })),
    }));
  }

  /** Makes a series with the value 0, so that a rate includes its first event. */
  begin(key: Key, labels: Labels): void {
    if (!this.#cells.has(key)) this.#cells.set(key, { labels, count: 0 });
  }

  /** Counts one event. @returns false where there is no such series: `begin` makes it. */
  increment(key: Key): boolean {
    const cell = this.#cells.get(key);
    if (cell === undefined) return false;
    cell.count++;
    return true;
  }
}

/** Series of a counter that something else counts, which is read at each scrape. */
export function readCounter(
  registry: Registry,
  name: string,
  help: string,
  read: () => readonly { readonly labels: Labels; readonly value: number }[],
): void {
  register(registry, name, () => ({ name, help, type: "counter", values: read() }));
}

interface Distribution {
  readonly labels: Labels;
  /** The count of each bucket by itself; the last one is for values above all bounds. */
  readonly counts: Float64Array;
  sum: number;
}

/** A histogram with labels. */
export class HistogramSeries<Key extends string | number> {
  readonly #bounds: readonly number[];
  readonly #cells = new Map<Key, Distribution>();

  /** @param bounds the upper bounds of the buckets, in the metric's unit, rising. */
  constructor(registry: Registry, name: string, help: string, bounds: readonly number[]) {
    this.#bounds = bounds;
    register(registry, name, () => ({
      name,
      help,
      type: "histogram",
      values: [...this.#cells.values()].flatMap((cell) => this.#valuesOf(name, cell)),
    }));
  }

  /** Makes a series with the value 0. */
  begin(key: Key, labels: Labels): void {
    if (this.#cells.has(key)) return;
    this.#cells.set(key, { labels, counts: new Float64Array(this.#bounds.length + 1), sum: 0 });
  }

  /** Counts one event. @returns false where there is no such series: it has to be begun. */
  observe(key: Key, value: number): boolean {
    const cell = this.#cells.get(key);
    if (cell === undefined) return false;
    const bounds = this.#bounds;
    let at = 0;
    while (at < bounds.length && value > (bounds[at] as number)) at++;
    cell.counts[at] = (cell.counts[at] as number) + 1;
    cell.sum += value;
    return true;
  }

  #valuesOf(name: string, { labels, counts, sum }: Distribution): Value[] {
    let total = 0;
    const buckets = [...counts].map((count, at): Value => {
      total += count;
      const bound = this.#bounds[at];
      return {
        metricName: `${name}_bucket`,
        labels: { le: bound === undefined ? "+Inf" : String(bound), ...labels },
        value: total,
      };
    });
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: sum },
      { metricName: `${name}_count`, labels, value: total },
    ];
  }
}
