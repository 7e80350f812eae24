#!/bin/sh
# Writes libcompletion.so.0.abi beside this file: what programs that are built with the library rely
# on. Done for each release, so that the next one is compared with it; never to make a test pass.
#
#     renew.sh LIBRARY   of a build with debugging information: build/dev/client/libcompletion.so
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../../.." && pwd)
. "$here/dump.sh"
dump "$tree/client/completion.h" "$1" "$here/libcompletion.so.0.abi"
