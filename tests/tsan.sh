#!/bin/sh
# Builds with the thread sanitizer (gcc's, preset tsan) and runs every test that starts a daemon, each
# daemon with WORKERS workers (4). A daemon of which the sanitizer says anything ends with a status that
# fails its test. The last line is "N passed, N failed, N skipped"; the exit status is 0 only if none
# failed. Debian's libraries are not instrumented, and need no suppression: what they do in one thread
# stays there. tests/tsan.supp has what the sanitizer gets wrong.
#
#   sh tests/tsan.sh [REGEX]      of the tests' names; all of them without
set -eu
tree=$(cd "$(dirname "$0")/.." && pwd)
jobs=$(nproc)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
cd "$tree"

# Left out: tests of the library alone, whose malloc() fails on purpose and is not the sanitizer's.
none='^client/library_memory$'
regex=${1-^(daemon|client|stock)/}

sh packaging/install-dependencies.sh build test
echo "== building with the thread sanitizer (build/tsan)"
if ! { cmake --preset tsan && cmake --build --preset tsan -j "$jobs"; } >"$scratch/build.log" 2>&1; then
  tail -40 "$scratch/build.log"
  echo "the build failed"
  exit 1
fi
echo "== running the tests, with ${WORKERS:=4} workers"
export COMPLETIOND_TEST_WORKERS="$WORKERS"
export TSAN_OPTIONS="suppressions=$tree/tests/tsan.supp"
CMOCKA_MESSAGE_OUTPUT=TAP ctest --test-dir build/tsan -V -j "$jobs" --timeout 600 -R "$regex" -E "$none" \
  </dev/null 2>&1 | tee "$scratch/ctest.log" |
  sed -un 's|^ *\([0-9]*/[0-9]*\) Test *#[0-9]*: \([^ ]*\) .*|   \1 \2|p'
# What was said of daemons, whoever noticed.
sed -n '/WARNING: ThreadSanitizer: /,/^[0-9]*: *=====/p; /FATAL: ThreadSanitizer/p' "$scratch/ctest.log"
awk -f tests/count.awk "$scratch/ctest.log" >"$scratch/counts"
sed '$d' "$scratch/counts"
# shellcheck disable=SC2046 # three numbers
set -- $(tail -n 1 "$scratch/counts")
echo "$1 passed, $2 failed, $3 skipped"
[ "$2" = 0 ] && ! grep -q '\(WARNING\|FATAL\): ThreadSanitizer' "$scratch/ctest.log"
