/** The release's list of parts (SBOM), in CycloneDX 1.6. Pure: the same parts give the same bytes. */
import { createHash } from "node:crypto";
import { Enums, Models, Serialize, Spec } from "@cyclonedx/cyclonedx-library";
import { BUN_LIBRARIES, BUN_POLYFILLS, type BunPart } from "./bun-parts.ts";
import type { BundledPackage } from "./packages.ts";

export interface SbomSource {
  readonly version: string;
  readonly commit: string;
  /** The day of the commit, as `2026-11-26`. */
  readonly date: string;
  /** The version of Bun. */
  readonly bun: string;
  readonly packages: readonly BundledPackage[];
  /** The packages that imdsproxy itself needs. */
  readonly direct: readonly string[];
}

const { Library, Application, Platform } = Enums.ComponentType;

/** An npm package's address (purl-spec, type npm): the @ of a scope is escaped. */
const purlOf = (name: string, version: string): string => `pkg:npm/${name.replace(/^@/, "%40")}@${version}`;

function licensed(component: Models.Component, expression: string): Models.Component {
  // CycloneDX takes either licences, or one expression.
  const one = / /.test(expression)
    ? new Models.LicenseExpression(expression)
    : new Models.SpdxLicense(expression);
  component.licenses.add(one);
  return component;
}

function partComponent({ name, license, url }: BunPart): Models.Component {
  const component = new Models.Component(Library, name, { bomRef: `bun/${name}` });
  component.externalReferences.add(new Models.ExternalReference(url, Enums.ExternalReferenceType.Website));
  return license === null ? component : licensed(component, license);
}

function packageComponent({ name, version, license, sha512 }: BundledPackage): Models.Component {
  const [scope, bare] = name.startsWith("@") ? name.split("/") : [undefined, name];
  const purl = purlOf(name, version);
  const component = new Models.Component(Library, bare ?? name, {
    ...(scope === undefined ? {} : { group: scope }),
    version,
    purl,
    bomRef: purl,
    scope: Enums.ComponentScope.Required,
  });
  if (sha512 !== null) component.hashes.set(Enums.HashAlgorithm["SHA-512"], sha512);
  return licensed(component, license);
}

export function sbomText({ version, commit, date, bun, packages, direct }: SbomSource): string {
  const program = licensed(
    new Models.Component(Application, "imdsproxy", {
      version,
      purl: `pkg:generic/imdsproxy@${version}`,
      bomRef: "imdsproxy",
    }),
    "Apache-2.0",
  );
  program.properties.add(new Models.Property("imdsproxy:commit", commit));
  const runtime = licensed(
    new Models.Component(Platform, "bun", {
      version: bun,
      purl: purlOf("bun", bun),
      bomRef: purlOf("bun", bun),
    }),
    "MIT",
  );
  for (const part of [...BUN_LIBRARIES, ...BUN_POLYFILLS]) runtime.components.add(partComponent(part));

  const components = new Map(packages.map((one) => [one.name, packageComponent(one)]));
  for (const { name, needs } of packages) {
    for (const needed of needs) {
      const to = components.get(needed);
      if (to !== undefined) components.get(name)?.dependencies.add(to.bomRef);
    }
  }
  program.dependencies.add(runtime.bomRef);
  for (const name of direct) {
    const to = components.get(name);
    if (to !== undefined) program.dependencies.add(to.bomRef);
  }
  // One and the same for one commit: a build can be repeated.
  const hash = createHash("sha256").update(`imdsproxy ${version} ${commit}`).digest("hex");
  // Version 8, variant 1: a UUID of the maker's own design (RFC 9562, 5.8).
  const uuid = [
    hash.slice(0, 8),
    hash.slice(8, 12),
    `8${hash.slice(13, 16)}`,
    `8${hash.slice(17, 20)}`,
    hash.slice(20, 32),
  ];
  const isDay = /^\d{4}-\d{2}-\d{2}$/.test(date);
  const bom = new Models.Bom({
    serialNumber: `urn:uuid:${uuid.join("-")}`,
    metadata: new Models.Metadata({
      component: program,
      ...(isDay ? { timestamp: new Date(`${date}T00:00:00Z`) } : {}),
    }),
  });
  bom.components.add(runtime);
  for (const component of components.values()) bom.components.add(component);
  const serializer = new Serialize.JsonSerializer(new Serialize.JSON.Normalize.Factory(Spec.Spec1dot6));
  return `${serializer.serialize(bom, { sortLists: true, space: 2 })}\n`;
}
