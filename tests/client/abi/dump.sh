# Sourced.
# shellcheck shell=sh
# dump HEADER LIBRARY FILE: the library's interface as its header has it, without the places of this
# machine.
dump() {
    public=$(mktemp -d)
    cp "$1" "$public/"
    abidw --headers-dir "$public" --drop-private-types --exported-interfaces-only \
        --no-corpus-path --no-comp-dir-path --no-show-locs --no-elf-needed --type-id-style hash \
        --out-file "$public/abi" "$(readlink -f "$2")" &&
        sed "s|path='[^']*/|path='|" "$public/abi" >"$3"
    dumped=$?
    rm -rf "$public"
    return $dumped
}
