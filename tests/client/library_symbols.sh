#!/bin/sh
# libcompletion as others see it: what it exports, its header in three languages, and a program
# built against an installed copy with pkg-config.
#
#     library_symbols.sh SOURCE BUILD CC CXX SANITIZERS
set -eu
source=$1 build=$2 cc=$3 cxx=$4 sanitizers=$5
header=$source/client/completion.h
work=$(mktemp -d "${TMPDIR:-/tmp}/completion-symbols-XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# ---- Symbols: those declared, all of version COMPLETION_0 ----
"$cc" -E -P "$header" | tr '\n' ' ' | tr ';' '\n' | grep -v typedef |
    grep -o '\bcompletion_[a-z0-9_]* *(' | tr -d ' (' | sort -u > "$work/declared"
[ "$(wc -l < "$work/declared")" -gt 80 ] || fail "few functions are found in completion.h"
nm -D --defined-only "$build/client/libcompletion.so" > "$work/nm"
awk '$2 == "T" { print $3 }' "$work/nm" | sed 's/@@COMPLETION_0$//' | sort -u > "$work/exported"
diff -u "$work/declared" "$work/exported" ||
    fail "declared functions (-) and exported ones (+) differ, or have another version"
awk '$2 != "T" && !($2 == "A" && $3 ~ /^COMPLETION_0(@@COMPLETION_0)?$/)' "$work/nm" > "$work/others"
[ ! -s "$work/others" ] || fail "more is exported: $(cat "$work/others")"
readelf -d "$build/client/libcompletion.so" | grep -q 'SONAME.*\[libcompletion\.so\.0\]' ||
    fail "the soname is not libcompletion.so.0"

# ---- What it does not do: threads, signals, processes, output, anything global ----
# With what the C library makes of a name where the compiler checks sizes.
forbidden() {
    grep -E '^(__)?(pthread_|thrd_|fork|vfork|clone|exec|posix_spawn|system|popen|sig|raise|kill|alarm|setitimer|(_?exit|_Exit|abort|atexit)$|v?[fd]?printf(_chk)?$|f?puts|f?putc|fwrite|p?writev?[0-9]*$|perror|stdout|stderr|v?syslog|setlocale|(un)?setenv|putenv|chdir|umask|set[ug]id|longjmp|random|s?rand$|strtok$)'
}
for name in pthread_create signal exit printf dprintf __printf_chk __vfprintf_chk __dprintf_chk write writev \
    putchar __syslog_chk setenv __longjmp_chk; do
    echo "$name" | forbidden >"$work/others" || fail "$name would not be noticed"
done
nm -D --undefined-only "$build/client/libcompletion.so" | awk '{ sub(/@.*/, "", $2); print $2 }' |
    forbidden > "$work/others" && fail "it uses $(cat "$work/others")"
if [ -z "$sanitizers" ]; then
    objdump -t "$build/client/libcompletion.so" | awk '/ \.(data|bss|tdata|tbss)\t/ { print $NF }' |
        grep -v -E '^(__|\.(data|bss)$|completed\.)' > "$work/others" &&
        fail "these can be changed, and are everybody's: $(cat "$work/others")"
fi

# ---- The header alone ----
for form in "c -std=c89" "c -std=c99" "c -std=c11" "c++ -std=c++11" "c++ -std=c++20"; do
    language=${form%% *} standard=${form#* }
    compiler=$cc warning=-Wstrict-prototypes
    [ "$language" = c ] || compiler=$cxx warning=-Wold-style-cast
    [ -n "$compiler" ] || { echo "skipped: no compiler for $language"; continue; }
    printf '#include "completion.h"\n#include "completion.h"\nint main(void);\nint main(void) { return completion_client_free(0) != 0; }\n' > "$work/one.c"
    "$compiler" -x "$language" "$standard" -pedantic-errors -Wall -Wextra -Werror \
        "$warning" -fsyntax-only -I"$source/client" \
        "$work/one.c" 2> "$work/log" || { cat "$work/log" >&2; fail "completion.h as $standard"; }
done

# ---- Installed ----
cmake --install "$build" --prefix "$work/prefix" > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "cmake --install"; }
pc=$(find "$work/prefix" -name libcompletion.pc)
[ -n "$pc" ] || fail "no libcompletion.pc is installed"
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
cat > "$work/example.c" <<'END'
#include <completion.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    completion_client *client;
    completion_error *error = completion_error_new();

    if (argc < 2 || completion_client_new(argv[1], &client) < 0)
        return 1;
    if (completion_client_check(client, 1000, error) < 0)
        puts(completion_error_status_name(error));
    completion_client_free(client);
    completion_error_free(error);
    return 0;
}
END
flags=
[ -z "$sanitizers" ] || flags=-fsanitize=$sanitizers
# shellcheck disable=SC2046,SC2086 # flags are words
"$cc" -Wall -Werror $flags $(pkg-config --cflags libcompletion) -o "$work/example" \
    "$work/example.c" $(pkg-config --libs libcompletion) || fail "the example does not build"
case $(pkg-config --cflags --libs libcompletion) in
*"$work"*) ;;
*) fail "pkg-config points elsewhere: $(pkg-config --cflags --libs libcompletion)" ;;
esac
# The tree's own must not stand in for it.
said=$(LD_LIBRARY_PATH=$(pkg-config --variable=libdir libcompletion) "$work/example" "$work/none")
[ "$said" = UNAVAILABLE ] || fail "the example says \"$said\""
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' \
    "$build/CMakeCache.txt")
[ "$(pkg-config --modversion libcompletion)" = "$version" ] || fail "pkg-config's version"
echo "libcompletion exports what it declares, and builds from its prefix"
