#!/bin/sh
# Fetches the peers that npm has into target/strip-peers, where the benchmark looks for them. Without it (or without npm)
# the benchmark says "not found" for them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$here/../../target/strip-peers
mkdir -p "$folder"
cp "$here/package.json" "$folder/"
npm install --prefix "$folder" --no-package-lock --no-audit --no-fund --loglevel=error
"$folder/node_modules/.bin/bun" --version
