import { readFileSync } from "node:fs";

const RULES = "docs/prometheus/imdsproxy.rules.yml";

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
}

/** Every rule of the file. */
export function rules(): Rule[] {
  const file = Bun.YAML.parse(readFileSync(RULES, "utf8")) as { groups: { rules: Rule[] }[] };
  return file.groups.flatMap((group) => group.rules);
}

interface Panel {
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

/** Every query of the dashboard, with the title of its panel. */
export function dashboardQueries(): { readonly title: string; readonly expr: string }[] {
  const { panels } = JSON.parse(readFileSync("docs/prometheus/dashboard.json", "utf8")) as {
    panels: Panel[];
  };
  return panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
}

/** The selectors of an expression: each metric with its matchers, without the range. */
export const selectors = (expr: string): string[] => [
  ...new Set(
    [...expr.matchAll(/\b(?:up|(?:imdsproxy|process|instance|instance_kind)[a-z0-9_:]*)\b(?:\{[^}]*\})?/g)]
      .map(([found]) => found)
      // `on (instance)`, `by (instance, kind)`: labels.
      .filter((found) => found !== "instance"),
  ),
];

/** The metrics that an expression names. */
export const metricNames = (expr: string): string[] =>
  selectors(expr)
    .map((selector) => selector.replace(/\{.*/s, ""))
    .filter((name) => !name.includes(":"));
