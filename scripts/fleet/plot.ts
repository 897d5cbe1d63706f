import type { Sample } from "./fleet.ts";

export interface Line {
  readonly name: string;
  readonly samples: readonly Sample[];
}
export interface Panel {
  readonly title: string;
  readonly lines: readonly Line[];
  /** Calls a second, drawn as a dashed line. */
  readonly quota: number;
}

const WIDTH = 760;
const HEIGHT = 150;
const LEFT = 60;
const TOP = 34;
const COLOURS = ["#185fa5", "#d97b29"] as const;
/** The calls a second at the foot of each panel: the scale is logarithmic. */
const LEAST = 1;

/** Calls of STS a second over time: a panel for each scenario, on a logarithmic scale. */
export function plotOf(panels: readonly Panel[]): string {
  const parts = panels.flatMap((panel, at) => panelOf(panel, at * (HEIGHT + TOP + 30)));
  const height = panels.length * (HEIGHT + TOP + 30);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="11">
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
${parts.join("\n")}
</svg>
`;
}

function panelOf({ title, lines, quota }: Panel, top: number): string[] {
  const all = lines.flatMap(({ samples }) => samples);
  const most = all.reduce((peak, { calls }) => Math.max(peak, calls), quota);
  const firstSecond = lines[0]?.samples[0]?.atSeconds ?? 0;
  const seconds = Math.max(1, (lines[0]?.samples.at(-1)?.atSeconds ?? 1) - firstSecond);
  const decades = Math.ceil(Math.log10(most / LEAST));
  const x = (atSeconds: number) => LEFT + ((atSeconds - firstSecond) / seconds) * (WIDTH - LEFT - 12);
  const y = (calls: number) =>
    top + TOP + HEIGHT * (1 - Math.log10(Math.max(calls, LEAST) / LEAST) / decades);
  const parts = [`<text x="8" y="${top + 18}" font-size="13">${title}: calls of STS a second</text>`];
  for (let decade = 0; decade <= decades; decade++) {
    const calls = LEAST * 10 ** decade;
    parts.push(
      `<line x1="${LEFT}" x2="${WIDTH - 12}" y1="${y(calls).toFixed(1)}" y2="${y(calls).toFixed(1)}" stroke="#dddddd"/>`,
      `<text x="${LEFT - 6}" y="${(y(calls) + 4).toFixed(1)}" text-anchor="end">${calls.toLocaleString("en-US")}</text>`,
    );
  }
  const stepHours = seconds > 12 * 3_600 ? 4 : 0.5;
  for (let hour = 0; hour * 3_600 <= seconds; hour += stepHours) {
    const at = x(firstSecond + hour * 3_600).toFixed(1);
    parts.push(`<text x="${at}" y="${top + TOP + HEIGHT + 14}" text-anchor="middle">${hour} h</text>`);
  }
  const atQuota = y(quota).toFixed(1);
  parts.push(
    `<line x1="${LEFT}" x2="${WIDTH - 12}" y1="${atQuota}" y2="${atQuota}" stroke="#a32d2d" stroke-dasharray="5 4"/>`,
  );
  for (const [at, { name, samples }] of lines.entries()) {
    const colour = COLOURS[at % COLOURS.length];
    const points = samples.map(({ atSeconds, calls }) => `${x(atSeconds).toFixed(1)},${y(calls).toFixed(1)}`);
    parts.push(
      `<polyline points="${points.join(" ")}" fill="none" stroke="${colour}"/>`,
      `<text x="${WIDTH - 12 - (lines.length - 1 - at) * 110}" y="${top + 18}" text-anchor="end" fill="${colour}">${name}</text>`,
    );
  }
  return parts;
}
