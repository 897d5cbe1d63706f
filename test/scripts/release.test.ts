import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createPublicKey, generateKeyPairSync, verify } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import full from "spdx-license-list/full.js";
import { BUN_LIBRARIES, BUN_POLYFILLS } from "../../scripts/release/bun-parts.ts";
import { releaseFiles } from "../../scripts/release/files.ts";
import { idsOf } from "../../scripts/release/licenses.ts";
import { type BundledPackage, type Metafile, packagesIn } from "../../scripts/release/packages.ts";
import { pinOf, signingKey } from "../../scripts/release/signature.ts";
import { type ReleaseFile, writeRelease } from "../../scripts/release.ts";
import { configSchemaText } from "../../src/config/known-keys.ts";

const directory = mkdtempSync(join(tmpdir(), "imdsproxy-release-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const pem = (type: "ec" | "ed25519", namedCurve = "prime256v1"): string =>
  (type === "ec"
    ? generateKeyPairSync("ec", { namedCurve }).privateKey
    : generateKeyPairSync("ed25519").privateKey
  )
    .export({ type: "pkcs8", format: "pem" })
    .toString();

describe("writeRelease()", () => {
  const folder = join(directory, "release");
  const executables = ["imdsproxy-linux-x64", "imdsproxy-linux-arm64"].map((name) => ({
    name,
    bytes: Buffer.from(name),
  }));
  const others = [
    { name: "install.sh", content: readFileSync("scripts/install.sh"), mode: 0o755 },
    { name: "imdsproxy.8", content: "a page\n" },
  ];

  test("puts all that is to be published into one folder, with sums that hold", () => {
    // What an earlier release left behind is not published with this one.
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "imdsproxy-of-yesterday"), "old");
    const files = writeRelease(folder, executables, others);
    expect(readdirSync(folder).sort()).toEqual([...files].sort());
    expect([...files].sort()).toEqual([
      "SHA256SUMS",
      "imdsproxy-linux-arm64",
      "imdsproxy-linux-arm64.gz",
      "imdsproxy-linux-x64",
      "imdsproxy-linux-x64.gz",
      "imdsproxy.8",
      "install.sh",
    ]);
    const check = Bun.spawnSync(["sha256sum", "--check", "--strict", "SHA256SUMS"], { cwd: folder });
    expect([check.exitCode, check.stdout.toString().match(/: OK$/gm)?.length]).toEqual([0, 6]);
    expect(Bun.spawnSync(["gzip", "-dc", "imdsproxy-linux-x64.gz"], { cwd: folder }).stdout.toString()).toBe(
      "imdsproxy-linux-x64",
    );
    expect(readFileSync(join(folder, "install.sh"))).toEqual(readFileSync("scripts/install.sh"));
    const modes = ["install.sh", "imdsproxy-linux-x64", "imdsproxy.8", "SHA256SUMS"].map(
      (name) => statSync(join(folder, name)).mode & 0o777,
    );
    expect(modes).toEqual([0o755, 0o755, 0o644, 0o644]);
  });

  test("with a key signs the sums, and writes everything else as without one", () => {
    const read = () =>
      Object.fromEntries(
        readdirSync(folder).map((name) => [name, readFileSync(join(folder, name)).toString("base64")]),
      );
    writeRelease(folder, executables, others);
    const without = read();
    const key = signingKey(pem("ec"), "KEY");
    expect(writeRelease(folder, executables, others, key).at(-1)).toBe("SHA256SUMS.sig");
    const { "SHA256SUMS.sig": signature = "", ...rest } = read();
    expect(rest).toEqual(without);
    const pinned = createPublicKey({ key: Buffer.from(pinOf(key), "base64"), format: "der", type: "spki" });
    const sums = readFileSync(join(folder, "SHA256SUMS"));
    expect(verify("sha256", sums, pinned, Buffer.from(signature, "base64"))).toBe(true);
  });

  test("refuses two files of one name", () => {
    expect(() => writeRelease(folder, executables, [...others, ...others])).toThrow("EEXIST");
  });
});

describe("signingKey()", () => {
  for (const [what, text] of [
    ["an Ed25519 key, which openssl 1.1 cannot verify", pem("ed25519")],
    ["a key of another curve", pem("ec", "secp384r1")],
    ["no key", "hunter2"],
    [
      "a key with a passphrase",
      "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n",
    ],
  ] as const) {
    test(`refuses ${what}, and says what would be right, without a word of it`, () => {
      expect(() => signingKey(text, "FILE")).toThrow(/^FILE holds .*prime256v1/);
      try {
        signingKey(text, "FILE");
      } catch (error) {
        for (const line of text.split("\n").filter((one) => one.length > 3))
          expect(String(error)).not.toContain(line);
      }
    });
  }
});

describe("a release", () => {
  let packages: readonly BundledPackage[];
  let files: ReadonlyMap<string, ReleaseFile>;
  const text = (name: string): string => String(files.get(name)?.content);
  const facts = { version: "1.2.3", commit: "0123456789ab", date: "2026-01-02" };
  const lock = readFileSync("bun.lock", "utf8");

  beforeAll(async () => {
    const metafile = join(directory, "meta.json");
    // As for the executable, but for what Bun puts before it.
    const built = Bun.spawnSync([
      ...[process.execPath, "build", "--target=bun", "--format=esm", "--splitting", "src/main.ts"],
      ...[`--metafile=${metafile}`, `--outdir=${join(directory, "out")}`],
    ]);
    expect([built.exitCode, built.stderr.toString()]).toEqual([0, ""]);
    packages = packagesIn(JSON.parse(readFileSync(metafile, "utf8")) as Metafile);
    files = new Map((await releaseFiles({ ...facts, packages })).map((file) => [file.name, file]));
  });

  test("has what an administrator needs", () => {
    expect([...files.keys()].sort()).toEqual([
      "LICENSE",
      "THIRD-PARTY-LICENSES.txt",
      "_imdsproxy",
      "config.schema.json",
      "imdsproxy-config.5",
      "imdsproxy.8",
      "imdsproxy.bash",
      "imdsproxy.cdx.json",
      "imdsproxy.dashboard.json",
      "imdsproxy.fish",
      "imdsproxy.rules.yml",
      "install.sh",
    ]);
    for (const name of files.keys()) expect([name, text(name).length > 500]).toEqual([name, true]);
    expect(files.get("install.sh")?.mode).toBe(0o755);
    expect(text("config.schema.json")).toBe(configSchemaText());
    expect(text("imdsproxy.8")).toContain("imdsproxy 1.2.3");
  });

  test("is the same a second time", async () => {
    const again = await releaseFiles({ ...facts, packages: [...packages] });
    expect(again.map(({ name, content }) => [name, String(content)])).toEqual(
      [...files].map(([name, { content }]) => [name, String(content)]),
    );
  });

  test("knows the packages in the executable: those that it imports and theirs, and none of the tests'", () => {
    const names = packages.map(({ name }) => name);
    const { dependencies } = JSON.parse(readFileSync("package.json", "utf8"));
    for (const name of Object.keys(dependencies)) expect(names).toContain(name);
    for (const name of ["@smithy/core", "bowser"]) expect(names).toContain(name);
    for (const name of ["fast-check", "typescript", "@cyclonedx/cyclonedx-library", "bun-types"])
      expect(names).not.toContain(name);
    expect(packages.find(({ name }) => name === "@aws-sdk/core")?.needs).toContain("bowser");
  });

  test("lists them in CycloneDX, with the sums of bun.lock, and what is inside of Bun", () => {
    const sbom = JSON.parse(text("imdsproxy.cdx.json"));
    expect(sbom).toMatchObject({ bomFormat: "CycloneDX", specVersion: "1.6" });
    expect(sbom.serialNumber).toMatch(
      /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    expect(sbom.metadata).toMatchObject({
      timestamp: "2026-01-02T00:00:00.000Z",
      component: { name: "imdsproxy", version: "1.2.3", licenses: [{ license: { id: "Apache-2.0" } }] },
    });
    type Component = {
      name: string;
      group?: string;
      version: string;
      hashes?: { content: string }[];
      components?: Component[];
    };
    const components = sbom.components as Component[];
    expect(
      components.map(({ group, name }) => (group === undefined ? name : `${group}/${name}`)).sort(),
    ).toEqual([...packages.map(({ name }) => name), "bun"].sort());
    for (const { name, group, version, hashes } of components) {
      if (name === "bun") continue;
      const full = group === undefined ? name : `${group}/${name}`;
      const sum = Buffer.from(hashes?.[0]?.content ?? "", "hex").toString("base64");
      expect(sum).not.toBe("");
      expect(lock).toContain(`["${full}@${version}", `);
      expect(lock).toContain(`sha512-${sum}`);
    }
    const bun = components.find(({ name }) => name === "bun");
    expect(bun?.version).toBe(Bun.version);
    expect(bun?.components?.map(({ name }) => name).sort()).toEqual(
      [...BUN_LIBRARIES, ...BUN_POLYFILLS].map(({ name }) => name).sort(),
    );
    const needs = new Map(
      (sbom.dependencies as { ref: string; dependsOn?: string[] }[]).map(({ ref, dependsOn }) => [
        ref,
        dependsOn,
      ]),
    );
    expect(needs.get("imdsproxy")).toContain(`pkg:npm/bun@${Bun.version}`);
    expect(needs.get("imdsproxy")?.some((ref) => ref.startsWith("pkg:npm/zod@"))).toBe(true);
    // Each points to one that is there.
    const refs = new Set(needs.keys());
    for (const dependsOn of needs.values()) for (const ref of dependsOn ?? []) expect(refs).toContain(ref);
  });

  test("has the licence of each, under an id that SPDX knows", () => {
    // Some texts differ from others in their spaces alone, and are printed once.
    const flat = (words: string) => words.trim().replaceAll(/\s+/g, " ");
    const licenses = text("THIRD-PARTY-LICENSES.txt");
    const words = flat(licenses);
    const has = (what: string, part: string) =>
      expect([what, words.includes(flat(part))]).toEqual([what, true]);
    for (const { name, version, license, texts } of packages) {
      has(name, `${name} ${version} (${license})`);
      for (const part of texts) has(name, part);
      // What may be part of an executable that is given to others.
      expect(["Apache-2.0", "MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "0BSD"]).toContain(license);
    }
    for (const { name, license, url } of [...BUN_LIBRARIES, ...BUN_POLYFILLS]) {
      const line = licenses.split("\n").find((one) => one.startsWith(`  ${name} `));
      expect([name, line?.endsWith(` ${url}`)]).toEqual([name, true]);
      for (const id of license === null ? [] : idsOf(license)) has(name, full[id]?.licenseText ?? "?");
    }
    has("LGPL", "GNU LIBRARY GENERAL PUBLIC LICENSE");
    has("relinking", "To link it with a JavaScriptCore of your own");
  });
});

test("packagesIn() refuses two versions of one package, and one without a licence", () => {
  const tree = join(directory, "tree");
  const put = (folder: string, content: object) => {
    mkdirSync(join(tree, folder), { recursive: true });
    writeFileSync(join(tree, folder, "package.json"), JSON.stringify(content));
  };
  put("node_modules/a", { name: "a", version: "1.0.0", license: "MIT" });
  put("node_modules/b/node_modules/a", { name: "a", version: "2.0.0", license: "MIT" });
  put("node_modules/@c/d", { name: "@c/d", version: "3.0.0" });
  writeFileSync(join(tree, "bun.lock"), '{"packages": {"a": ["a@1.0.0", "", {}, "sha512-AAEC"],},}');
  const metafile = (...paths: string[]): Metafile => ({
    outputs: { "x.js": { inputs: Object.fromEntries(paths.map((path) => [path, { bytesInOutput: 1 }])) } },
  });
  expect(packagesIn(metafile("src/x.ts", "node_modules/a/index.js"), tree)).toEqual([
    { name: "a", version: "1.0.0", license: "MIT", texts: [], sha512: "000102", needs: [] },
  ]);
  expect(() =>
    packagesIn(metafile("node_modules/a/i.js", "node_modules/b/node_modules/a/i.js"), tree),
  ).toThrow("two versions");
  expect(() => packagesIn(metafile("node_modules/@c/d/lib/i.js"), tree)).toThrow("names no licence");
});
