/**
 * What Bun's executable is made of, as Bun's own list says (LICENSE.md of github.com/oven-sh/bun, as of commit 09015d9125245b462c3a986d5c166ea28445a237);
 * without what is in it on Windows alone. Bun's npm package has neither this list nor the texts, and names no versions of the parts.
 */
export interface BunPart {
  readonly name: string;
  /** An SPDX expression; null where the list says "several licenses". */
  readonly license: string | null;
  /** Where the part, or its licence, is to be found. */
  readonly url: string;
}

const of = (name: string, license: string | null, url: string): BunPart => ({ name, license, url });

/** Linked into Bun. */
export const BUN_LIBRARIES: readonly BunPart[] = [
  of("JavaScriptCore", "LGPL-2.0-or-later", "https://github.com/oven-sh/WebKit"),
  of("boringssl", null, "https://boringssl.googlesource.com/boringssl/+/refs/heads/master/LICENSE"),
  of("brotli", "MIT", "https://github.com/google/brotli"),
  of("libarchive", null, "https://github.com/libarchive/libarchive/blob/master/COPYING"),
  of("lol-html", "BSD-3-Clause", "https://github.com/cloudflare/lol-html"),
  of("ls-hpack", "MIT", "https://github.com/litespeedtech/ls-hpack"),
  of("ls-qpack", "MIT", "https://github.com/litespeedtech/ls-qpack"),
  of("lsquic", "MIT AND BSD-3-Clause", "https://github.com/litespeedtech/lsquic"),
  of("mimalloc", "MIT", "https://github.com/microsoft/mimalloc"),
  of("picohttpparser", "MIT", "https://github.com/h2o/picohttpparser"),
  of("zstd", "BSD-3-Clause", "https://github.com/facebook/zstd"),
  of("simdutf", "Apache-2.0", "https://github.com/simdutf/simdutf"),
  of("tinycc", "LGPL-2.1-or-later", "https://github.com/tinycc/tinycc"),
  of("uSockets", "Apache-2.0", "https://github.com/uNetworking/uSockets"),
  of("uWebSockets", "Apache-2.0", "https://github.com/jarred-sumner/uwebsockets"),
  of("zlib-ng", "Zlib", "https://github.com/zlib-ng/zlib-ng"),
  of("c-ares", "MIT", "https://github.com/c-ares/c-ares"),
  of("icu", "Unicode-3.0", "https://github.com/unicode-org/icu/blob/main/icu4c/LICENSE"),
  of("libbase64", "BSD-2-Clause", "https://github.com/aklomp/base64"),
  of("libdeflate", "MIT", "https://github.com/ebiggers/libdeflate"),
  of("libjpeg-turbo", "BSD-3-Clause AND IJG AND Zlib", "https://github.com/libjpeg-turbo/libjpeg-turbo"),
  of("libspng", "BSD-2-Clause", "https://github.com/randy408/libspng"),
  of("libwebp", "BSD-3-Clause", "https://github.com/webmproject/libwebp"),
  of("highway", "Apache-2.0", "https://github.com/google/highway"),
  of("uucode", "MIT", "https://github.com/jacobsandlund/uucode"),
  of("tigerbeetle", "Apache-2.0", "https://github.com/tigerbeetle/tigerbeetle"),
  of("libc++abi", "Apache-2.0 WITH LLVM-exception", "https://github.com/llvm/llvm-project"),
  of("esbuild", "MIT", "https://github.com/evanw/esbuild"),
];

/** Packages of JavaScript inside of Bun, all under the MIT licence. */
export const BUN_POLYFILLS: readonly BunPart[] = [
  ...["acorn", "acorn-walk", "assert", "browserify-zlib", "buffer", "constants-browserify"],
  ...[
    "crypto-browserify",
    "domain-browser",
    "events",
    "https-browserify",
    "os-browserify",
    "path-browserify",
  ],
  ...["process", "punycode", "querystring-es3", "stream-browserify", "stream-http", "string_decoder"],
  ...["timers-browserify", "tty-browserify", "url", "util", "vm-browserify"],
].map((name) => of(name, "MIT", `https://npmjs.com/package/${name}`));

/** JavaScriptCore is under the LGPL: whoever gets the executable must be able to link it with a changed one. */
export const RELINKING = `The executable is linked with JavaScriptCore, which is under the GNU Library General Public License, version 2 or later.
To link it with a JavaScriptCore of your own: build Bun with it, as Bun's repository (https://github.com/oven-sh/bun) describes, from
the sources of WebKit that it names (https://github.com/oven-sh/WebKit); then build imdsproxy from its sources by that Bun
(\`bun scripts/build.ts\`).`;
