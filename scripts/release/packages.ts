/** The npm packages of which code is in the executable, as the bundler itself says. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface BundledPackage {
  readonly name: string;
  readonly version: string;
  /** The SPDX id that the package names. */
  readonly license: string;
  /** The texts of its LICENSE and NOTICE files; the package may have none. */
  readonly texts: readonly string[];
  /** SHA-512 of the package as the registry has it, in hexadecimal, out of bun.lock; null where that has none. */
  readonly sha512: string | null;
  /** The names of those of these packages that it needs. */
  readonly needs: readonly string[];
}

/** What of `bun build --metafile` is read here: which files are in each output, and how many bytes of each. */
export interface Metafile {
  readonly outputs: Readonly<
    Record<string, { readonly inputs: Readonly<Record<string, { readonly bytesInOutput: number }>> }>
  >;
}

/** The folder of a package, out of the path of a file in it: up to the last node_modules and the name behind it. */
const folderOf = (path: string): string | undefined =>
  /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0];

/** @param directory of the project, in which node_modules and bun.lock are. */
export function packagesIn(metafile: Metafile, directory = "."): readonly BundledPackage[] {
  const folders = new Set<string>();
  for (const { inputs } of Object.values(metafile.outputs)) {
    for (const [path, { bytesInOutput }] of Object.entries(inputs)) {
      const folder = folderOf(path);
      if (folder !== undefined && bytesInOutput > 0) folders.add(folder);
    }
  }
  const integrity = integrityOf(readFileSync(join(directory, "bun.lock"), "utf8"));
  const found = [...folders].map((folder) => readPackage(join(directory, folder), integrity));
  const names = new Set(found.map(({ name }) => name));
  if (names.size < found.length)
    throw new Error(`two versions of one package are in the executable: ${[...folders].sort().join(" ")}`);
  return found
    .map((one) => ({ ...one, needs: one.needs.filter((name) => names.has(name)).sort() }))
    .sort((one, other) => (one.name < other.name ? -1 : 1));
}

function readPackage(folder: string, integrity: ReadonlyMap<string, string>): BundledPackage {
  const found = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
    readonly name: string;
    readonly version: string;
    readonly license?: unknown;
    readonly dependencies?: Readonly<Record<string, string>>;
  };
  if (typeof found.license !== "string") throw new Error(`${folder}/package.json names no licence`);
  const files = readdirSync(folder)
    .filter((name) => /^(?:licen[cs]e|notice|copying)(?:\.(?:md|txt))?$/i.test(name))
    .sort();
  return {
    name: found.name,
    version: found.version,
    license: found.license,
    texts: files.map((name) => readFileSync(join(folder, name), "utf8")),
    sha512: integrity.get(`${found.name}@${found.version}`) ?? null,
    needs: Object.keys(found.dependencies ?? {}),
  };
}

/** SHA-512 by `name@version`, in hexadecimal. bun.lock is JSON with commas behind the last of a list. */
function integrityOf(lock: string): ReadonlyMap<string, string> {
  const { packages } = JSON.parse(lock.replaceAll(/,(\s*[}\]])/g, "$1")) as {
    readonly packages: Readonly<Record<string, readonly [string, string, unknown, string?]>>;
  };
  return new Map(
    Object.values(packages).flatMap(([name, , , sum]) =>
      sum?.startsWith("sha512-") === true
        ? [[name, Buffer.from(sum.slice("sha512-".length), "base64").toString("hex")] as const]
        : [],
    ),
  );
}
