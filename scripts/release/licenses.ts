/** THIRD-PARTY-LICENSES.txt: whose code is in the executables, and under which terms. Pure. */
import full from "spdx-license-list/full.js";
import { BUN_LIBRARIES, BUN_POLYFILLS, type BunPart, RELINKING } from "./bun-parts.ts";
import type { BundledPackage } from "./packages.ts";

const RULE = "=".repeat(78);

/** The standard text of a licence. @throws where SPDX knows none of that id. */
function standardText(id: string): string {
  const text = full[id]?.licenseText;
  if (text === undefined) throw new Error(`SPDX has no licence ${JSON.stringify(id)}`);
  return text;
}

/** The licences that an expression names, without exceptions such as LLVM's, which only give more rights. */
export const idsOf = (expression: string): string[] =>
  expression.split(/ (?:AND|OR) /).map((one) => one.replace(/^\(|\)$/g, "").replace(/ WITH .*$/, ""));

const partLine = ({ name, license, url }: BunPart): string =>
  `  ${name.padEnd(22)}${(license ?? "several, see there").padEnd(32)}${url}`;

/** @param bun the version of Bun. */
export function licensesText(packages: readonly BundledPackage[], bun: string): string {
  // Packages with the same words share one print of them.
  const byText = new Map<string, { text: string; packages: BundledPackage[] }>();
  for (const one of packages) {
    // A package that has no text is under that of its licence's id.
    const text =
      one.texts.length > 0 ? one.texts.map((part) => part.trim()).join("\n\n") : standardText(one.license);
    const key = text.replaceAll(/\s+/g, " ");
    const group = byText.get(key) ?? { text, packages: [] };
    group.packages.push(one);
    byText.set(key, group);
  }
  const ids = [
    ...new Set(
      [...BUN_LIBRARIES, ...BUN_POLYFILLS].flatMap(({ license }) => (license === null ? [] : idsOf(license))),
    ),
  ];
  return [
    "The executables of imdsproxy hold the work of others, under the terms below.",
    "imdsproxy itself is under the Apache License 2.0: see LICENSE.",
    "",
    ...[...byText.values()].flatMap((group) => [
      RULE,
      ...group.packages.map(({ name, version, license }) => `${name} ${version} (${license})`),
      RULE,
      "",
      group.text.trim(),
      "",
    ]),
    RULE,
    `Bun ${bun} (MIT)`,
    RULE,
    "",
    "Each executable begins with Bun, the runtime (https://github.com/oven-sh/bun). Bun is linked with:",
    "",
    ...BUN_LIBRARIES.map(partLine),
    "",
    "and has these packages inside, which imdsproxy may or may not use:",
    "",
    ...BUN_POLYFILLS.map(partLine),
    "",
    RELINKING,
    "",
    "The copyright notices of these parts are at the places named above. The licences' standard texts:",
    "",
    ...ids
      .sort()
      .flatMap((id) => [RULE, `${full[id]?.name ?? id} (${id})`, RULE, "", standardText(id).trim(), ""]),
  ].join("\n");
}
