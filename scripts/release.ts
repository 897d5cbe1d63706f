/** Puts the files of a release into one folder: what is in it is what is to be published, and nothing else. */
import { createHash, type KeyObject } from "node:crypto";
import { chmodSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { signatureOf } from "./release/signature.ts";

/** An executable by the name under which install.sh asks for it. */
export interface Executable {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Another file of a release. */
export interface ReleaseFile {
  readonly name: string;
  readonly content: Uint8Array | string;
  /** Default 0644. */
  readonly mode?: number;
}

const digest = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");

/**
 * Writes each executable as it is and compressed (`NAME.gz`; a node without gzip takes the other), the other files, and SHA256SUMS
 * over all of them; with a key, also SHA256SUMS.sig. The folder is made anew, and has no folders in it: so it can be published where
 * there are none. The same input gives the same bytes, but for the signature, which has a random number in it.
 *
 * @param key the private key that signs SHA256SUMS; see release/signature.ts.
 * @returns the names of the files, in the order of the sums; SHA256SUMS last, then its signature.
 */
export function writeRelease(
  directory: string,
  executables: readonly Executable[],
  others: readonly ReleaseFile[],
  key?: KeyObject,
): readonly string[] {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const files: string[] = [];
  const sums: string[] = [];
  const add = (name: string, content: Uint8Array | string, mode = 0o644) => {
    const path = join(directory, name);
    writeFileSync(path, content, { flag: "wx" });
    // Whatever the umask of whoever builds is.
    chmodSync(path, mode);
    files.push(name);
    return digest(content);
  };
  const addWithSum = (name: string, content: Uint8Array | string, mode?: number) =>
    sums.push(`${add(name, content, mode)}  ${name}\n`);
  for (const { name, bytes } of executables) {
    addWithSum(name, bytes, 0o755);
    // node:zlib writes neither a name nor a time into the head of the file (RFC 1952, 2.3.1).
    addWithSum(`${name}.gz`, gzipSync(bytes, { level: 9 }));
  }
  for (const { name, content, mode } of others) addWithSum(name, content, mode);
  const text = sums.join("");
  add("SHA256SUMS", text);
  if (key !== undefined) add("SHA256SUMS.sig", signatureOf(text, key));
  return files;
}
