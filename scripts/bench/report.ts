import type { Latencies } from "./open-loop.ts";

/** What one contestant did in one row. */
export interface Figures {
  readonly name: string;
  /** Medians of the rounds. */
  readonly perSecond: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  readonly latencies: Latencies | null;
}

/** One kind of request, on new or on kept connections. */
export interface MeasuredRow {
  readonly title: string;
  readonly isNew: boolean;
  readonly figures: readonly Figures[];
}

/** What has to hold of us against another contestant of the same run. */
export interface Bound {
  readonly other: string;
  readonly what: "cpu" | "rate" | "p99";
  /** Ours by theirs: at most for `cpu` and `p99`, at least for `rate`. */
  readonly ratio: number;
  /** Null for both. */
  readonly isNew: boolean | null;
}

export const OURS = "imdsproxy";

/** The middle value; the upper one of two. */
export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

const cpuOf = ({ userSeconds, systemSeconds }: Figures): number => userSeconds + systemSeconds;

/** What falls short, one line each. */
export function shortfalls(rows: readonly MeasuredRow[], bounds: readonly Bound[]): string[] {
  const found: string[] = [];
  for (const { title, isNew, figures } of rows) {
    const ours = figures.find(({ name }) => name === OURS);
    for (const bound of bounds) {
      const theirs = figures.find(({ name }) => name === bound.other);
      if (ours === undefined || theirs === undefined) continue;
      if (bound.isNew !== null && bound.isNew !== isNew) continue;
      const ratio = ratioOf(bound.what, ours, theirs);
      if (ratio === null) continue;
      const holds = bound.what === "rate" ? ratio >= bound.ratio : ratio <= bound.ratio;
      if (holds) continue;
      const wanted = `${bound.what === "rate" ? "at least" : "at most"} ${bound.ratio}`;
      found.push(`${title}: ${bound.what} is ${ratio.toFixed(2)} of ${bound.other}'s, ${wanted} is wanted`);
    }
  }
  return found;
}

function ratioOf(what: Bound["what"], ours: Figures, theirs: Figures): number | null {
  switch (what) {
    case "cpu":
      return cpuOf(ours) / cpuOf(theirs);
    case "rate":
      return ours.perSecond / theirs.perSecond;
    case "p99":
      return ours.latencies === null || theirs.latencies === null
        ? null
        : ours.latencies.p99Ms / theirs.latencies.p99Ms;
  }
}

/** A row for each contestant and kind of request, in Markdown. */
export function tableOf(rows: readonly MeasuredRow[]): string {
  const lines = [
    "| request | server | CPU s per 10,000: user | system | together | requests/s | p50 ms | p99 ms |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ];
  for (const { title, figures } of rows) {
    for (const one of figures) {
      const { latencies } = one;
      const cells = [
        title,
        one.name,
        one.userSeconds.toFixed(3),
        one.systemSeconds.toFixed(3),
        cpuOf(one).toFixed(3),
        Math.round(one.perSecond).toLocaleString("en-US"),
        latencies?.p50Ms.toFixed(2) ?? "",
        latencies?.p99Ms.toFixed(2) ?? "",
      ];
      lines.push(`| ${cells.join(" | ")} |`);
    }
  }
  return `${lines.join("\n")}\n`;
}

const END = "<!-- to here -->";

/**
 * A page with what stands between its two marks replaced. @throws where it has not both.
 *
 * @param command of the first mark: `<!-- COMMAND WRITE=1 writes from here -->`.
 */
export function withTable(page: string, table: string, command = "make bench"): string {
  const mark = `<!-- ${command} WRITE=1 writes from here -->`;
  const begin = page.indexOf(mark);
  const end = page.indexOf(END, begin);
  if (begin < 0 || end < begin) throw new Error("the page has no place for the table");
  return `${page.slice(0, begin + mark.length)}\n\n${table}\n${page.slice(end)}`;
}

const WIDTH = 760;
const LEFT = 250;
const BAR = 13;
const COLOURS = ["#b5d4f4", "#185fa5"] as const;

/** CPU time per 10,000 requests as bars, the kernel's share apart. */
export function plotOf(rows: readonly MeasuredRow[]): string {
  const most = Math.max(...rows.flatMap(({ figures }) => figures.map(cpuOf)));
  const scale = (WIDTH - LEFT - 70) / most;
  const parts: string[] = [];
  let y = 40;
  for (const { title, figures } of rows) {
    parts.push(`<text x="8" y="${y + 10}" font-weight="bold">${title}</text>`);
    y += 18;
    for (const one of figures) {
      const system = one.systemSeconds * scale;
      const user = one.userSeconds * scale;
      parts.push(
        `<text x="${LEFT - 8}" y="${y + 10}" text-anchor="end">${one.name}</text>`,
        `<rect x="${LEFT}" y="${y}" width="${system.toFixed(1)}" height="${BAR}" fill="${COLOURS[0]}"/>`,
        `<rect x="${(LEFT + system).toFixed(1)}" y="${y}" width="${user.toFixed(1)}" height="${BAR}" fill="${COLOURS[1]}"/>`,
        `<text x="${(LEFT + system + user + 6).toFixed(1)}" y="${y + 10}">${cpuOf(one).toFixed(3)}</text>`,
      );
      y += BAR + 4;
    }
    y += 10;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" font-family="sans-serif" font-size="11">
<rect width="${WIDTH}" height="${y}" fill="#ffffff"/>
<text x="8" y="18" font-size="13">CPU seconds of the server per 10,000 requests: kernel (light) and own code (dark)</text>
${parts.join("\n")}
</svg>
`;
}
