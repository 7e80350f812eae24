#!/bin/sh
# Makes every allocation and every system call on the paths of a call fail in turn, in all the ways
# that plan.c knows, once and for ever; says for each path how often, and what came of it. Takes
# a quarter of an hour, most of it for TLS. Arguments: -p PATH, one path only; -f FUNCTION and
# -n NUMBER, one of its calls only, five times; -s SAMPLES, so many numbers of each only; -r SEED.
set -eu
tree=$(cd "$(dirname "$0")/../.." && pwd)
cd "$tree"
mkdir -p build
(
  flock 9
  cmake --preset dev && cmake --build --preset dev -j "$(nproc)" --target torture
) >build/torture.log 2>&1 9>build/dev.lock || {
  tail -40 build/torture.log
  echo "the build failed"
  exit 1
}
exec build/dev/tests/torture/torture "$@"
