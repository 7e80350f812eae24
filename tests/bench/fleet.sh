#!/bin/sh
# Several hosts with a completiond each in front of four servers, on one machine: a balancer before
# the servers, beside servers that completiond chooses among. Prints tables (Markdown).
#
#   sh tests/bench/fleet.sh [--hosts N] [--seconds N] [--build DIR]
#
# Builds the release preset first; --build takes what is built there instead. All of it runs in
# namespaces of its own, and ends with them. It needs no rights, where users may have namespaces.
set -eu

source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
hosts=4 seconds=20 build=''
while [ $# -gt 0 ]; do
    case $1 in
    --hosts) hosts=$2 && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --build) build=$2 && shift 2 ;;
    *) echo "usage: fleet.sh [--hosts N] [--seconds N] [--build DIR]" >&2 && exit 2 ;;
    esac
done

if [ -z "$build" ]; then
    build=$source/build/release
    sh "$source/packaging/install-dependencies.sh" build bench >&2
    (cd "$source" && cmake --preset release >/dev/null)
    cmake --build "$build" --target completiond bench_fleet_callers >&2
fi
build=$(CDPATH='' cd -- "$build" && pwd)
for program in daemon/completiond tests/bench/bench_fleet_callers; do
    [ -x "$build/$program" ] || { echo "fleet.sh: $build has no $program" >&2 && exit 1; }
done

exec unshare --map-root-user --net --mount --pid --fork --kill-child --mount-proc sh -c '
    mount -t tmpfs tmpfs /run
    exec python3 "$0/tests/bench/bench_fleet.py" "$1" --hosts "$2" --seconds "$3"' \
    "$source" "$build" "$hosts" "$seconds"
