#!/bin/sh
# What bash offers behind completionctl and completiond.
#
#     test_completions.sh SOURCE COMPLETIOND COMPLETIONCTL
set -u
source=$1 completiond=$2 completionctl=$3
. "$source/tests/packaging/tap.sh"
package=/usr/share/bash-completion/bash_completion

if ! command -v bash >/dev/null || ! [ -f $package ]; then
    echo "skipped: bash-completion is missing"
    exit 77
fi
mkdir "$work/home"
cd "$work/home" || exit 1
mkdir folder
touch story.txt 'two words.txt' rpc.sock

# offers WORD...: what is offered for the last of these words, a line each. Words are cut as bash
# cuts them.
cat >"$work/offers.bash" <<'BASH'
# As where nobody types: readline's options can't be set there.
compopt() { :; }
source "$1" && source "$2/$3" || exit 1
shift 2
for word; do
    # "--option=value" is three words at that moment; "@file" is one, bash-completion sees to that.
    while [[ $word =~ ^([^=]*)(=)(.*)$ ]]; do
        [[ -z ${BASH_REMATCH[1]} ]] || COMP_WORDS+=("${BASH_REMATCH[1]}")
        COMP_WORDS+=("${BASH_REMATCH[2]}")
        word=${BASH_REMATCH[3]}
        [[ -n $word ]] || continue 2
    done
    COMP_WORDS+=("$word")
done
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE=$*
COMP_POINT=${#COMP_LINE}
"_$1" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
BASH
offers() {
    env -u BASH_ENV bash --norc "$work/offers.bash" $package "$source/packaging/completions" "$@"
}

# expect WANTED WORD...: WANTED are words, in any order.
expect() {
    wanted=$1
    shift
    offers "$@" | sort >"$work/offered"
    # shellcheck disable=SC2086 # words
    [ -z "$wanted" ] || printf '%s\n' $wanted | sort >"$work/wanted"
    [ -n "$wanted" ] || : >"$work/wanted"
    diff "$work/wanted" "$work/offered" || { echo "behind: $*"; return 1; }
}

options_are_the_parsers() {
    for command in "$completiond" "$completionctl create" "$completionctl status" "$completionctl top"; do
        # shellcheck disable=SC2086 # words
        $command --=x 2>&1 | sed -n 's/.*possibilities://p' | grep -o "[-][-][a-z-]*" >"$work/parser"
        # shellcheck disable=SC2086 # words
        offers ${command##*/} -- | grep '^--' >"$work/completion"
        same "the parser of $command" "$work/parser" completion "$work/completion" || return 1
    done
}

commands_are_the_programs() {
    "$completionctl" help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' >"$work/program"
    offers completionctl '' | grep -v '^-' >"$work/completion"
    same completionctl "$work/program" completion "$work/completion" || return 1
    offers completionctl help '' >"$work/completion"
    same completionctl "$work/program" completion "$work/completion"
}

# Every option that takes a value is followed by one, never by another option.
values_are_no_options() {
    "$completionctl" create --help | sed -n 's/^ *\(--[a-z-]*\) [A-Zj].*/\1/p' >"$work/takers"
    [ "$(wc -l <"$work/takers")" -gt 18 ] || { cat "$work/takers"; return 1; }
    while read -r option; do
        ! offers completionctl create "$option" '' </dev/null | grep -e '^-' || return 1
        ! offers completionctl create "$option=" </dev/null | grep -e '^-' || return 1
    done <"$work/takers"
}

beginnings() {
    expect "--stop --stream --stream-options" completionctl create --model m --st &&
        expect "create" completionctl cr &&
        expect "--timeout" completionctl status --socket x --t &&
        expect "--check-config --config" completiond --c
}

enumerations() {
    expect "json text" completionctl create --output '' &&
        expect "text" completionctl create --output=t &&
        expect "true false" completionctl create --echo= &&
        expect "--stop --stream --stream-options" completionctl create --echo --st &&
        expect "30ms 30min 30s 30h" completionctl status --timeout 30
}

files() {
    expect "@story.txt" completionctl create --prompt @st &&
        expect "@story.txt" completionctl create --prompt=@st &&
        expect "" completionctl create --prompt st &&
        expect "@story.txt" completionctl create --api-key @st &&
        expect "rpc.sock" completionctl status --socket rp &&
        expect "rpc.sock" completiond --listen=rp &&
        expect "story.txt" completiond --check-config --config st &&
        [ "$(offers completiond --config two)" = 'two words.txt' ]
}

is_quiet() {
    for command in completiond completionctl; do
        bash -n "$source/packaging/completions/$command" || return 1
    done
    offers completionctl create --model 'a b' --prompt 'x @y: z=1' --st 2>&1 >"$work/offered" |
        { ! grep .; }
}

try "the options are the parsers'" options_are_the_parsers
try "the commands are the program's" commands_are_the_programs
try "a value is no option" values_are_no_options
try "beginnings" beginnings
try "enumerations" enumerations
try "files and sockets" files
try "nothing is said" is_quiet
finish
