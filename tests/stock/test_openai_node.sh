#!/bin/sh
# Runs test_openai_node.js with the API's official SDK from npm, kept in a folder outside the tree.
# Arguments: daemon. 77: skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/completiond-tests/openai

command -v node >/dev/null && command -v npm >/dev/null || { echo "skipped: there is no node or npm"; exit 77; }
mkdir -p "$cache"
# Two runs at once must not install into one folder at the same time.
exec 9> "$cache/lock"
flock 9
if ! [ -d "$cache/node_modules/openai" ] || ! [ -d "$cache/node_modules/undici" ]; then
  npm install --prefix "$cache" --no-audit --no-fund --no-save --loglevel=error \
    openai@6 undici@6 >"$cache/log" 2>&1 ||
    { tail -3 "$cache/log"; echo "skipped: npm can't install openai"; exit 77; }
fi
flock -u 9
exec node "$here/test_openai_node.js" "$1" "$cache"
