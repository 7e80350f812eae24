#!/bin/sh
# Fuzzes for a time, with what earlier runs found (build/fuzz/corpus) and the seeds of the tree.
#
#   sh tests/fuzz/run.sh HOURS               builds and runs every target, sharing the time
#   sh tests/fuzz/run.sh --seconds N TARGET  runs one, which is built, and keeps nothing
#
# Says how many inputs each target was given. Inputs that fail are left in build/fuzz/crashes.
set -eu
tree=$(cd "$(dirname "$0")/../.." && pwd)
binaries=$tree/build/fuzz/tests/fuzz

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

# Arguments: target, seconds, folder for what is found.
fuzz() {
  target=$1 seconds=$2 found=$3
  seeds=$tree/tests/fuzz/corpus/${target#fuzz_}
  words=$tree/tests/fuzz/${target#fuzz_}.dict
  crashes=$tree/build/fuzz/crashes
  mkdir -p "$found" "$crashes"
  set -- "$binaries/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix="$crashes/$target-"
  [ -f "$words" ] && set -- "$@" -dict="$words"
  set -- "$@" "$found"
  [ -d "$seeds" ] && set -- "$@" "$seeds"
  "$@"
}

if [ "${1-}" = --seconds ] && [ $# = 3 ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  fuzz "$3" "$2" "$scratch"
  exit
fi

[ $# = 1 ] || usage
targets=
n=0
for source in "$tree"/tests/fuzz/fuzz_*.c; do
  targets="$targets $(basename "$source" .c)"
  n=$((n + 1))
done
seconds=$(awk -v hours="$1" -v n="$n" 'BEGIN { print int(hours * 3600 / n) }')
[ "$seconds" -gt 0 ] || usage
cd "$tree"
cmake --preset fuzz >/dev/null
# shellcheck disable=SC2086 # a list of words
cmake --build --preset fuzz --target $targets >/dev/null
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for target in $targets; do
  result=ok
  fuzz "$target" "$seconds" "build/fuzz/corpus/$target" >"$log" 2>&1 || {
    result=FAILED
    status=1
    tail -60 "$log"
  }
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "$target: ${executions:-?} executions in $seconds s, $result"
done
exit $status
