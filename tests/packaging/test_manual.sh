#!/bin/sh
# The manual says what the programs do: options, commands, keys and their defaults, reasons, exit
# statuses, signals, variables; and it is well-formed.
#
#     test_manual.sh SOURCE COMPLETIOND COMPLETIONCTL MANUAL-KEYS
set -u
source=$1 completiond=$2 completionctl=$3 manual_keys=$4
. "$source/tests/packaging/tap.sh"
man=$source/packaging/man

# getopt_long() tells all of its table where an abbreviation fits everything: the empty one.
parsers_options() {
    "$@" --=x 2>&1 | sed -n 's/.*possibilities://p' | grep -o "[-][-][a-z-]*"
}

# A part of a page: of the section or subsection with this title.
part() {
    awk -v title="$2" '
        /^\.S[hs] / { here = substr($0, 5) == title; next }
        here' "$1"
}

# Options that a text documents, long and short ones.
long_options() {
    grep '^\.It Fl ' | grep -o 'Fl -[a-z-]*' | sed 's/Fl -/--/'
}
short_options() {
    grep '^\.It Fl ' | grep -o 'Fl [a-zA-Z]\>' | sed 's/Fl //'
}

# ---- Options ----

options_of_completiond() {
    parsers_options "$completiond" >"$work/parser"
    part "$man/completiond.8" DESCRIPTION | long_options >"$work/page"
    same "the parser" "$work/parser" completiond.8 "$work/page"
}

options_of_command() {
    parsers_options "$completionctl" "$1" >"$work/parser"
    part "$man/completionctl.1" "completionctl $1" | long_options >"$work/page"
    same "the parser" "$work/parser" completionctl.1 "$work/page"
}

# -h and --help go together everywhere, and so do -V and --version.
short_options_are_there() {
    sed -n 's/.*getopt_long(argc, argv, "\([a-zA-Z]*\)".*/\1/p' "$source/daemon/options.c" |
        fold -w 1 >"$work/parser"
    part "$man/completiond.8" DESCRIPTION | short_options >"$work/page"
    same "the parser" "$work/parser" completiond.8 "$work/page" || return 1
    "$completionctl" --help | grep -o -- '^  -[a-zA-Z],' | tr -d ' ,-' >"$work/parser"
    part "$man/completionctl.1" DESCRIPTION | short_options >"$work/page"
    same "the parser" "$work/parser" completionctl.1 "$work/page" || return 1
    for command in create models status top; do
        sed -n 's/.*getopt_long(argc, argv, "\([a-zA-Z]*\)".*/\1/p' \
            "$source"/client/cli/"$(echo $command | sed s/create/options/)".c |
            fold -w 1 >"$work/parser"
        part "$man/completionctl.1" "completionctl $command" | short_options >"$work/page"
        same "the parser" "$work/parser" completionctl.1 "$work/page" || return 1
    done
}

# Those that a text merely mentions.
mentioned_options_exist() {
    { parsers_options "$completiond"; echo --config; } >"$work/known"
    for command in create models status top; do
        parsers_options "$completionctl" $command
    done >"$work/known.1"
    echo --version >>"$work/known.1"
    cat "$work/known.1" >>"$work/known"
    for page in completiond.8 completiond.conf.5 completionctl.1; do
        grep -v '^\.It' "$man/$page" | grep -o 'Fl -[a-z-]*' | sed 's/Fl -/--/' | sort -u |
            while read -r option; do
                grep -q -x -e "$option" "$work/known" || echo "$page: $option"
            done
    done >"$work/unknown"
    cat "$work/unknown"
    [ ! -s "$work/unknown" ]
}

commands_are_there() {
    "$completionctl" help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' >"$work/program"
    sed -n 's/^\.Ss completionctl //p' "$man/completionctl.1" >"$work/page"
    same completionctl "$work/program" completionctl.1 "$work/page"
}

# ---- Configuration ----

keys_and_defaults() {
    awk '
        /^\.S[hs]/ { section = "" }
        /^\.Ss \[/ { section = $2; gsub(/[^a-z]/, "", section) }
        section && /^\.It Cm / {
            value = $0
            sub(/^[^=]*= ?((Cm|Ar) )?/, "", value)
            print section "\t" $3 "\t" value
        }' "$man/completiond.conf.5" | "$manual_keys"
}

# The README has only some of them.
keys_in_the_readme() {
    awk -F '|' '
        !/^\|/ { section = "" }
        /^\| key of `\[/ { match($0, /\[[a-z]+/); section = substr($0, RSTART + 1, RLENGTH - 1) }
        section && /^\| `/ {
            gsub(/[` ]/, "", $2); gsub(/[` ]/, "", $3)
            print section "\t" $2 "\t" $3
        }' "$source/README.md" >"$work/readme"
    [ -s "$work/readme" ] || { echo "there are no keys in README.md"; return 1; }
    "$manual_keys" --some <"$work/readme"
}

# ---- What comes back ----

exit_statuses_of_completiond() {
    echo nonsense >"$work/bad.conf"
    : >"$work/good.conf"
    for arguments in "--config $work/good.conf" "--config $work/bad.conf" --bogus; do
        # shellcheck disable=SC2086 # words
        "$completiond" $arguments --check-config >/dev/null 2>&1
        echo $?
    done >"$work/program"
    part "$man/completiond.8" "EXIT STATUS" | sed -n 's/^\.It //p' >"$work/page"
    same completiond "$work/program" completiond.8 "$work/page"
}

exit_statuses_of_completionctl() {
    sed -n 's/^ *EXIT_[A-Z]* = \([0-9]*\),.*/\1/p' "$source/client/cli/completionctl.h" \
        >"$work/program"
    part "$man/completionctl.1" "EXIT STATUS" | sed -n 's/^\.It //p' >"$work/page"
    same completionctl.h "$work/program" completionctl.1 "$work/page"
}

# Each with its statuses.
reasons() {
    awk -F '|' '
        /^\| reason \|/ { here = 1; next }
        !/^\|/ { here = 0 }
        here && !/^\|-/ {
            if ($2 ~ /[A-Z]/) reason = $2
            n = split($3, statuses, ",")
            for (i = 1; i <= n; i++) print reason, statuses[i]
        }' "$source/proto/PROTOCOL.md" | tr -s ' ' | sed 's/^ //; s/ $//' >"$work/protocol"
    part "$man/completion.7" REASONS |
        sed -n 's/^\.It Dv \([A-Z_]*\) Pq /\1 /p' | awk '{
            for (i = 2; i <= NF; i++) if ($i != "Dv" && $i != ",") print $1, $i
        }' >"$work/page"
    same PROTOCOL.md "$work/protocol" completion.7 "$work/page"
}

signals() {
    grep -e 'signals\[\] = ' -e 'strays\[\] = ' -e 'signal(SIG' "$source/daemon/main.c" "$source/daemon/process.c" |
        grep -o '\<SIG[A-Z0-9]*\>' >"$work/program"
    part "$man/completiond.8" SIGNALS | grep '^\.It' | grep -o 'SIG[A-Z0-9]*' >"$work/page"
    same main.c "$work/program" completiond.8 "$work/page"
}

# What libraries read stands for itself.
variables_of() {
    page=$man/$1
    shift
    grep -h -o 'getenv("[A-Z_]*")' "$@" | grep -o '[A-Z_]*' | sort -u >"$work/read"
    part "$page" ENVIRONMENT | grep '^\.It' | grep -o 'Ev [A-Z_]*' | sed 's/Ev //' >"$work/page"
    status=0
    while read -r variable; do
        grep -q "Ev $variable\>" "$page" || { echo "$page lacks $variable"; status=1; }
    done <"$work/read"
    while read -r variable; do
        grep -q "\"$variable\"" "$@" && continue
        case $variable in
        LISTEN_* | WATCHDOG_*) ;;
        *) echo "$page has $variable"; status=1 ;;
        esac
    done <"$work/page"
    return $status
}

# ---- Form ----

# Pages of functions are made with the library, and looked at in tests/client/library_manual.sh.
links_lead_somewhere() {
    grep -h '^\.Xr ' "$man"/* | while read -r _ name section _; do
        case $name.$section in
        completion*.3) ;;
        completion*) [ -f "$man/$name.$section" ] || echo "there is no $name($section)" ;;
        esac
    done >"$work/broken"
    cat "$work/broken"
    [ ! -s "$work/broken" ]
}

# Pages that are not ours may not be installed here.
is_silent() {
    "$@" >"$work/output" 2>"$work/errors"
    cat "$work/errors" >>"$work/output"
    grep -v -e 'referenced manual not found' -e 'outdated mandoc.db' "$work/output" >"$work/words"
    cat "$work/words"
    [ ! -s "$work/words" ]
}

formats_without_warnings() {
    MANWIDTH=80 man --warnings -l "$1" 2>"$work/words" >"$work/formatted"
    cat "$work/words"
    [ ! -s "$work/words" ] && [ -s "$work/formatted" ]
}

try "completiond(8) has the options of completiond" options_of_completiond
for command in create models status top; do
    try "completionctl(1) has the options of completionctl $command" options_of_command $command
done
try "short options" short_options_are_there
try "options that are mentioned exist" mentioned_options_exist
try "completionctl(1) has the commands of completionctl" commands_are_there
try "completiond.conf(5) has the keys and their defaults" keys_and_defaults
try "README.md's keys have these defaults" keys_in_the_readme
try "completiond(8) has the exit statuses" exit_statuses_of_completiond
try "completionctl(1) has the exit statuses" exit_statuses_of_completionctl
try "completion(7) has the reasons and their statuses" reasons
try "completiond(8) has the signals" signals
try "completiond(8) has the variables" variables_of completiond.8 "$source"/daemon/*.c
try "completionctl(1) has the variables" variables_of completionctl.1 "$source"/client/*.c \
    "$source"/client/cli/*.c
try "links lead to pages" links_lead_somewhere
for page in "$man"/*; do
    name=${page##*/}
    if command -v mandoc >/dev/null; then
        try "mandoc finds nothing wrong with $name" is_silent mandoc -T lint "$page"
    else
        skip "mandoc and $name" "there is no mandoc"
    fi
    if command -v man >/dev/null && command -v nroff >/dev/null; then
        try "groff finds nothing wrong with $name" formats_without_warnings "$page"
    else
        skip "groff and $name" "there is no man-db with groff"
    fi
done
finish
