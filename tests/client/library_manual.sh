#!/bin/sh
# The pages of libcompletion's functions: each function that is exported has one, with its prototype
# and a text, and they are well-formed; what the library's own page shows can be compiled.
#
#     library_manual.sh SOURCE BUILD CC
set -u
source=$1 build=$2 cc=$3
. "$source/tests/packaging/tap.sh"
pages=$build/client/man3

exported() {
    nm -D --defined-only "$build/client/libcompletion.so" |
        awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }' | sort
}

every_function_has_a_page() {
    exported >"$work/exported"
    find "$pages" -name '*.3' -exec basename {} .3 \; | sort >"$work/pages"
    # Those of groups are named as no function is, but for one.
    sed -n 's/.*= "\(completion_[a-z]*\)"$/\1/p' "$source/client/manual.awk" | sort -u >"$work/groups"
    [ "$(wc -l <"$work/groups")" -ge 7 ] || return 1
    sort -u "$work/exported" "$work/groups" >"$work/expected"
    same "the library" "$work/expected" "the pages" "$work/pages"
}

# A link leads to the page that has the function in its NAME, its SYNOPSIS and its DESCRIPTION.
links_lead_to_the_function() {
    exported | while read -r function; do
        page=$pages/$function.3
        target=$(sed -n 's|^\.so man3/||p' "$page")
        [ -z "$target" ] || page=$pages/$target
        grep -q -E "^\.Nm $function( ,)?$" "$page" && grep -q "^\.Fo $function$" "$page" &&
            sed '1,/^\.Sh DESCRIPTION/d' "$page" | grep -q -E "^\.Fn $function( ,)?$" ||
            echo "$function is not in $page"
    done >"$work/lost"
    cat "$work/lost"
    [ ! -s "$work/lost" ]
}

# The compiler has the last word on prototypes: those of the pages, behind those of the header.
prototypes_are_the_header_s() {
    {
        echo '#include <completion.h>'
        cat "$pages"/*.3 | awk '
            /^\.Ft/ { type = substr($0, 6, length($0) - 6) }
            /^\.Fo/ { line = type " " $2 "("; comma = "" }
            /^\.Fa/ { one = substr($0, 5); gsub(/^"|"$/, "", one); line = line comma one; comma = ", " }
            /^\.Fc/ { print line ");" }'
    } >"$work/prototypes.c"
    [ "$(grep -c ';' "$work/prototypes.c")" = "$(exported | wc -l)" ] || return 1
    "$cc" -Werror -Wall -fsyntax-only -I"$source/client" "$work/prototypes.c"
}

is_silent() {
    "$@" >"$work/output" 2>&1
    grep -v -e 'referenced manual not found' -e 'outdated mandoc.db' "$work/output" >"$work/words"
    cat "$work/words"
    [ ! -s "$work/words" ]
}

pages_of_groups() {
    find "$pages" -name '*.3' | while read -r page; do
        grep -q '^\.so ' "$page" || echo "$page"
    done
}

mandoc_finds_nothing_wrong() {
    # shellcheck disable=SC2046 # paths without spaces
    is_silent mandoc -T lint $(pages_of_groups)
}

# Parameters that are functions are longer than lines may be.
groff_finds_nothing_wrong() {
    for page in $(pages_of_groups); do
        MANWIDTH=80 man --warnings -l "$page" 2>"$work/all" >"$work/formatted"
        grep -v "can't break line" "$work/all" >"$work/words"
        cat "$work/words"
        [ ! -s "$work/words" ] && [ -s "$work/formatted" ] || return 1
    done
    # A sentence of the header, as it is read.
    MANWIDTH=80 man -l "$pages/completion_call.3" | col -b | tr -s ' \n' ' ' |
        grep -q 'Stops the generation if it has not ended, and calls no callback\.'
}

links_lead_somewhere() {
    cat "$pages"/*.3 "$source"/packaging/man/*.3 | sed -n 's/^\.Xr \(completion[a-z_]*\) 3.*/\1/p' |
        sort -u | while read -r name; do
        [ -f "$pages/$name.3" ] || echo "there is no $name(3)"
    done >"$work/broken"
    cat "$work/broken"
    [ ! -s "$work/broken" ]
}

example_compiles() {
    awk '/^\.Bd/ { here = 1; next } /^\.Ed/ { exit } here && !/^\./' \
        "$source/packaging/man/libcompletion.3" | sed 's/\\e/\\/g' >"$work/example.c"
    grep -q '^int main' "$work/example.c" || return 1
    "$cc" -Wall -Wextra -Werror -std=c99 -fsyntax-only -I"$source/client" "$work/example.c"
}

try "every function has a page" every_function_has_a_page
try "links lead to the function" links_lead_to_the_function
try "prototypes are the header's" prototypes_are_the_header_s
try "cross references lead somewhere" links_lead_somewhere
try "the example of libcompletion(3) compiles" example_compiles
if command -v mandoc >/dev/null; then
    try "mandoc finds nothing wrong" mandoc_finds_nothing_wrong
else
    skip "mandoc" "there is no mandoc"
fi
if command -v man >/dev/null && command -v nroff >/dev/null; then
    try "groff finds nothing wrong" groff_finds_nothing_wrong
else
    skip "groff" "there is no man-db with groff"
fi
finish
