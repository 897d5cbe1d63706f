/** One line over time: what is measured at each sample, and null, or no number, where it was not. */
export interface Curve {
  readonly title: string;
  readonly values: readonly (number | null)[];
}

const WIDTH = 760;
const HEIGHT = 90;
const LEFT = 60;
const PANEL = HEIGHT + 48;

const numberText = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);

/**
 * Panels below each other, each from 0 to its greatest value.
 *
 * @param minutes when each sample was taken, from the beginning. Not their number times a pause: a busy machine takes fewer.
 * @param marks minutes at which the proxy began anew, drawn as vertical lines.
 */
export function soakPlot(
  curves: readonly Curve[],
  minutes: readonly number[],
  marks: readonly number[],
): string {
  const last = Math.max(0, ...minutes, ...marks);
  const x = (minute: number) => (LEFT + (minute / (last || 1)) * (WIDTH - LEFT - 12)).toFixed(1);
  const parts = curves.flatMap(({ title, values }, panel) => {
    const top = panel * PANEL + 26;
    const measured = values.map((value) => (Number.isFinite(value) ? value : null));
    const most = measured.reduce<number>((greatest, value) => Math.max(greatest, value ?? 0), 0) || 1;
    const y = (value: number) => (top + HEIGHT * (1 - value / most)).toFixed(1);
    const points = measured.flatMap((value, at) =>
      value === null ? [] : [`${x(minutes[at] ?? 0)},${y(value)}`],
    );
    return [
      `<text x="8" y="${top - 10}" font-size="13">${title}</text>`,
      ...[0, most].map(
        (value) =>
          `<text x="${LEFT - 6}" y="${Number(y(value)) + 4}" text-anchor="end">${numberText(value)}</text>`,
      ),
      ...marks.map(
        (at) => `<line x1="${x(at)}" x2="${x(at)}" y1="${top}" y2="${top + HEIGHT}" stroke="#dddddd"/>`,
      ),
      `<line x1="${LEFT}" x2="${WIDTH - 12}" y1="${y(0)}" y2="${y(0)}" stroke="#888888"/>`,
      `<polyline points="${points.join(" ")}" fill="none" stroke="#185fa5"/>`,
      `<text x="${WIDTH - 12}" y="${top + HEIGHT + 14}" text-anchor="end">${last.toFixed(0)} min</text>`,
    ];
  });
  const height = curves.length * PANEL + 8;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="11">
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
${parts.join("\n")}
</svg>
`;
}
