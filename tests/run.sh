#!/bin/sh
# Builds with sanitizers and runs every test: cmocka programs, stock clients, fuzz targets. Installs
# the Debian packages that are missing, and says which. The last line is "N passed, N failed, N
# skipped"; the exit status is 0 only if none failed. Two copies may run at once.
set -eu
tree=$(cd "$(dirname "$0")/.." && pwd)
fuzz_seconds=${FUZZ_SECONDS:-5}
jobs=$(nproc)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
cd "$tree"

say() {
  echo "== $*"
}

# Builds of two copies at once take turns.
build() {
  preset=$1
  shift
  mkdir -p build
  (
    flock 9
    cmake --preset "$preset" && cmake --build --preset "$preset" -j "$jobs" "$@"
  ) >"$scratch/$preset.log" 2>&1 9>"build/$preset.lock"
}

# Adds to the counts.
count() {
  passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}
passed=0 failed=0 skipped=0

finish() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ]
  exit
}

sh packaging/install-dependencies.sh build test

say "building with sanitizers (build/asan)"
if ! build asan; then
  tail -40 "$scratch/asan.log"
  echo "the build failed"
  count 0 1 0
  finish
fi

say "running the tests"
# A real server, where one lies beside the tree; see tests/daemon/test_llama.c.
for folder in "$tree"/../*/llama-server; do
  [ -f "$folder/start.sh" ] && export LLAMA_SERVER="${LLAMA_SERVER-$folder}"
done
# ctest's own log is shared by copies that run at once: each reads its output instead.
CMOCKA_MESSAGE_OUTPUT=TAP ctest --test-dir build/asan -V -j "$jobs" --timeout 600 2>&1 </dev/null |
  tee "$scratch/ctest.log" |
  sed -n 's|^ *\([0-9]*/[0-9]*\) Test *#[0-9]*: \([^ ]*\) .*|   \1 \2|p'
awk -f tests/count.awk "$scratch/ctest.log" >"$scratch/counts"
sed '$d' "$scratch/counts"
# shellcheck disable=SC2046 # three numbers
count $(tail -n 1 "$scratch/counts")

say "fuzzing, $fuzz_seconds s each (build/fuzz)"
targets=
for source in tests/fuzz/fuzz_*.c; do
  targets="$targets $(basename "$source" .c)"
done
# shellcheck disable=SC2086 # a list of words
set -- $targets
if ! echo 'int LLVMFuzzerTestOneInput(const char *p, long n) { return p[n - 1] == 0; }' |
  clang -fsanitize=fuzzer,address -x c -o "$scratch/probe" - 2>"$scratch/probe.log"; then
  echo "skipped: fuzz targets: there is no clang with its runtime (libclang-rt-14-dev)"
  count 0 0 $#
  finish
fi
if ! build fuzz --target "$@"; then
  tail -40 "$scratch/fuzz.log"
  echo "the build of the fuzz targets failed"
  count 0 $# 0
  finish
fi
for target in "$@"; do
  if sh tests/fuzz/run.sh --seconds "$fuzz_seconds" "$target" >"$scratch/$target.log" 2>&1; then
    count 1 0 0
  else
    tail -60 "$scratch/$target.log"
    echo "failed: fuzz/$target"
    count 0 1 0
  fi
done
finish
