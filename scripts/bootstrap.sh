#!/bin/sh
# Installs the packages that the lock file names into node_modules, Bun itself among them.
# Needs npm, or a Bun of the pinned version. Changes nothing outside this folder.
set -eu
cd "$(dirname "$0")/.."

version=$(sed -n 's/^ *"bun": "\([0-9.]*\)",*$/\1/p' package.json)
[ -n "$version" ] || { echo "bootstrap: package.json pins no version of bun" >&2; exit 1; }

bun=
for candidate in node_modules/.bin/bun .bun/node_modules/.bin/bun bun; do
  if [ "$("$candidate" --version 2>/dev/null || true)" = "$version" ]; then
    bun=$candidate
    break
  fi
done

if [ -z "$bun" ]; then
  command -v npm >/dev/null 2>&1 || { echo "bootstrap: needs npm, or bun $version, on PATH" >&2; exit 1; }
  echo "bootstrap: installing bun $version with npm into .bun/"
  npm install --prefix .bun --no-save --no-package-lock --no-audit --no-fund --loglevel=error "bun@$version"
  bun=.bun/node_modules/.bin/bun
  # npm may be set up not to run install scripts; bun's own links its executable.
  [ "$("$bun" --version 2>/dev/null || true)" = "$version" ] || node .bun/node_modules/bun/install.js
fi

echo "bootstrap: installing the packages of bun.lock"
"$bun" install --frozen-lockfile
if [ "$(node_modules/.bin/bun --version 2>/dev/null || true)" != "$version" ]; then
  # The same for the copy in node_modules, without needing node.
  resolved=$(command -v "$bun")
  mkdir -p node_modules/.bin
  cp "$resolved" node_modules/bun/bin/bun.exe
fi
