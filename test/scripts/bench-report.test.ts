import { describe, expect, test } from "bun:test";
import {
  type Figures,
  type MeasuredRow,
  median,
  plotOf,
  shortfalls,
  tableOf,
  withTable,
} from "../../scripts/bench/report.ts";

const figures = (name: string, different: Partial<Figures> = {}): Figures => ({
  name,
  perSecond: 10_000,
  userSeconds: 0.1,
  systemSeconds: 0.1,
  latencies: { answers: 1, failures: 0, p50Ms: 1, p99Ms: 2 },
  ...different,
});
const row = (isNew: boolean, ...all: Figures[]): MeasuredRow => ({ title: "a row", isNew, figures: all });

describe("a bench falls short", () => {
  const bounds = [
    { other: "bun", what: "cpu", ratio: 1.25, isNew: true },
    { other: "nginx", what: "rate", ratio: 0.95, isNew: null },
    { other: "nginx", what: "p99", ratio: 1, isNew: null },
  ] as const;
  const others = [figures("nginx"), figures("bun")];

  test("nowhere where each bound is kept, one that is just met included", () => {
    const ours = figures("imdsproxy", { userSeconds: 0.15, perSecond: 9_500 });
    expect(shortfalls([row(true, ours, ...others), row(false, ours, ...others)], bounds)).toEqual([]);
  });

  test("in each row where it does, and says by how much", () => {
    const ours = figures("imdsproxy", {
      userSeconds: 0.2,
      perSecond: 9_000,
      latencies: { answers: 1, failures: 0, p50Ms: 1, p99Ms: 3 },
    });
    expect(shortfalls([row(true, ours, ...others)], bounds)).toEqual([
      "a row: cpu is 1.50 of bun's, at most 1.25 is wanted",
      "a row: rate is 0.90 of nginx's, at least 0.95 is wanted",
      "a row: p99 is 1.50 of nginx's, at most 1 is wanted",
    ]);
    expect(shortfalls([row(false, ours, ...others)], bounds)).toHaveLength(2);
  });

  test("against nobody who did not take part", () => {
    expect(shortfalls([row(true, figures("imdsproxy", { userSeconds: 9 }))], bounds)).toEqual([]);
  });
});

test("the table and the plot have each contestant of each row", () => {
  const rows = [row(true, figures("imdsproxy"), figures("bun", { latencies: null }))];
  expect(tableOf(rows)).toContain("| a row | imdsproxy | 0.100 | 0.100 | 0.200 | 10,000 | 1.00 | 2.00 |");
  expect(tableOf(rows)).toContain("| a row | bun | 0.100 | 0.100 | 0.200 | 10,000 |  |  |");
  expect(plotOf(rows).match(/<rect x=/g)).toHaveLength(4);
});

test("a page gets the table between its marks, and keeps the rest", () => {
  const page = "a\n<!-- make bench WRITE=1 writes from here -->\nold\n<!-- to here -->\nb\n";
  const once = withTable(page, "| new |\n");
  expect(once).toBe("a\n<!-- make bench WRITE=1 writes from here -->\n\n| new |\n\n<!-- to here -->\nb\n");
  expect(withTable(once, "| new |\n")).toBe(once);
  expect(() => withTable("a page", "")).toThrow("no place");
});

test("the median is the middle value", () => {
  expect([median([3, 1, 2]), median([4, 1, 3, 2])]).toEqual([2, 3]);
});
