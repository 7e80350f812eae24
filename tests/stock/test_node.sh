#!/bin/sh
# Runs test_node.js with the stock packages from npm, which are kept in a folder outside the tree.
# Arguments: daemon, proto folder. 77: skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/completiond-tests/node

command -v node >/dev/null && command -v npm >/dev/null || { echo "skipped: there is no node or npm"; exit 77; }
mkdir -p "$cache"
# Two runs at once must not install into one folder at the same time.
exec 9> "$cache/lock"
flock 9
if ! [ -d "$cache/node_modules/grpc-js-reflection-client" ]; then
  npm install --prefix "$cache" --no-audit --no-fund --no-save --loglevel=error \
    @grpc/grpc-js@1 @grpc/proto-loader@0.8 grpc-js-reflection-client@1 >"$cache/log" 2>&1 ||
    { tail -3 "$cache/log"; echo "skipped: npm can't install @grpc/grpc-js"; exit 77; }
fi
flock -u 9
exec node "$here/test_node.js" "$1" "$2" "$cache"
