#!/bin/sh
# Runs tests/bench/soak.c for some minutes (at most a day), on a preset's build: asan, or release to
# see memory and descriptors as users have them. It ends by itself and leaves nothing running.
#
#   sh tests/bench/soak.sh MINUTES [PRESET]
#
# SOAK_SEED=N repeats what N does; without it the seed is the time, and is printed.
set -eu

minutes=${1:-}
preset=${2:-asan}
case $minutes in
'' | *[!0-9]* | ?????*) minutes=0 ;;
esac
if [ "$minutes" -lt 1 ] || [ "$minutes" -gt 1440 ] || [ $# -gt 2 ]; then
    echo "usage: soak.sh MINUTES [PRESET]" >&2
    exit 2
fi

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
cd "$source"
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --target soak >&2

SOAK_SEED=${SOAK_SEED:-$(date +%s)}
SOAK_SECONDS=$((minutes * 60))
export SOAK_SEED SOAK_SECONDS
echo "seed $SOAK_SEED, $minutes min, $preset"
exec timeout -k 10 $((SOAK_SECONDS + 300)) "build/$preset/tests/bench/soak"
