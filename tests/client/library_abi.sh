#!/bin/sh
# Programs that were built with the last release of libcompletion run with this one: nothing of its
# binary interface was changed or removed since the dump of abi/. Additions are fine.
#
#     library_abi.sh SOURCE BUILD
set -u
source=$1 build=$2
. "$source/tests/packaging/tap.sh"
. "$source/tests/client/abi/dump.sh"
reference=$source/tests/client/abi/libcompletion.so.0.abi

if ! command -v abidiff >/dev/null || ! command -v abidw >/dev/null; then
    echo "skipped: there is no abidiff (package abigail-tools)"
    exit 77
elif [ "$(uname -m)" != x86_64 ]; then
    echo "skipped: the dump is of x86_64"
    exit 77
fi

# compare OLD NEW: says what is not the same, but for what was added.
compare() {
    abidiff --no-added-syms --drop-private-types "$1" "$2"
}

nothing_is_lost() {
    dump "$source/client/completion.h" "$build/client/libcompletion.so" "$work/now.abi" &&
        compare "$reference" "$work/now.abi"
}

# What has to be noticed: each is an edit of the reference, and is no interface of this library.
differences_are_noticed() {
    for edit in \
        "s/name='completion_call_pause'/name='completion_call_halt'/" \
        "s/version='COMPLETION_0'/version='COMPLETION_1'/" \
        "s/name='COMPLETION_FINISH_LENGTH' value='2'/name='COMPLETION_FINISH_LENGTH' value='3'/" \
        "/<class-decl name='completion_text'/s/size-in-bits='128'/size-in-bits='192'/"; do
        sed "$edit" "$reference" >"$work/other.abi"
        cmp -s "$reference" "$work/other.abi" && { echo "no edit: $edit"; return 1; }
        compare "$work/other.abi" "$work/now.abi" >"$work/noticed" &&
            { echo "not noticed: $edit"; return 1; }
    done
    # A function more, seen from the other side.
    sed "/elf-symbol name='completion_call_pause'/d" "$reference" >"$work/other.abi"
    compare "$work/other.abi" "$work/now.abi"
}

names_no_place() {
    ! grep -n "='/" "$reference"
}

try "nothing is changed or removed" nothing_is_lost
try "changes would be noticed" differences_are_noticed
try "the dump names no place of a machine" names_no_place
finish
