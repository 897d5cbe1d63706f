/** Puts the files of a release into one folder: what is in it is what is to be published, and nothing else. */
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

/** An executable by the name under which install.sh asks for it. */
export interface Executable {
  readonly name: string;
  readonly bytes: Uint8Array;
}

const digest = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/**
 * Writes each executable as it is and compressed (`NAME.gz`; a node without gzip takes the other), install.sh, and SHA256SUMS
 * over all of them. The folder is made anew.
 *
 * @returns the names of the files, in the order of the sums; SHA256SUMS last.
 */
export function writeRelease(
  directory: string,
  executables: readonly Executable[],
  installScript: Uint8Array,
): readonly string[] {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const files: string[] = [];
  const sums: string[] = [];
  const add = (name: string, bytes: Uint8Array) => {
    writeFileSync(join(directory, name), bytes);
    files.push(name);
    sums.push(`${digest(bytes)}  ${name}\n`);
  };
  for (const { name, bytes } of executables) {
    add(name, bytes);
    add(`${name}.gz`, gzipSync(bytes, { level: 9 }));
  }
  add("install.sh", installScript);
  chmodSync(join(directory, "install.sh"), 0o755);
  writeFileSync(join(directory, "SHA256SUMS"), sums.join(""));
  return [...files, "SHA256SUMS"];
}
