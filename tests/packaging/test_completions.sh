#!/bin/sh
# What shells offer behind completionctl and completiond.
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
    for command in "$completiond" "$completionctl create" "$completionctl models" "$completionctl status" \
        "$completionctl top"; do
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
        expect "table text" completionctl models --output t &&
        expect "true" completionctl create --stream=t &&
        expect "true false" completionctl create --echo= &&
        expect "--stop --stream --stream-options" completionctl create --echo --st &&
        expect "--jobs --jsonl" completionctl create --j &&
        expect "30ms 30min 30s 30h" completionctl status --timeout 30
}

files() {
    expect "@story.txt" completionctl create --prompt @st &&
        expect "@story.txt" completionctl create --prompt=@st &&
        expect "" completionctl create --prompt st &&
        expect "@story.txt" completionctl create --api-key @st &&
        expect "story.txt" completionctl create --jsonl st &&
        expect "rpc.sock" completionctl status --socket rp &&
        expect "rpc.sock" completiond --listen=rp &&
        expect "story.txt" completiond --check-config --config st &&
        [ "$(offers completiond --config two)" = 'two words.txt' ]
}

start() {
    cat >"$work/daemon.conf" <<'CONF'
[upstream one]
models = gpt-3.5-turbo-instruct gpt-x* ft:gpt:me $(touch${IFS}evil) a'b;c
base_url = http://127.0.0.1:1/v1
auth = none
[upstream two]
models = davinci-002 gpt-3.5-turbo-instruct *
base_url = http://127.0.0.1:1/v1
auth = none
CONF
    mkfifo "$work/log"
    "$completiond" --config "$work/daemon.conf" --listen "$work/models.sock" 2>"$work/log" &
    daemon_pid=$!
    exec 4<"$work/log"
    while read -r line <&4; do
        case $line in
        *"listening on"*) return 0 ;;
        esac
        echo "# $line"
    done
    return 1
}

# What the configuration has, as it is; of globs nobody knows what fits.
models() {
    export COMPLETIOND_SOCKET="$work/models.sock"
    expect "gpt-3.5-turbo-instruct" completionctl create --model g &&
        expect "gpt-3.5-turbo-instruct" completionctl create --model=gpt-3 &&
        expect "davinci-002" completionctl create --prompt x --model d &&
        expect "gpt:me" completionctl create --model ft: &&
        expect "a\\'b\\;c" completionctl create --model a &&
        expect 'a\'"'b\\;c"' davinci-002 ft:gpt:me gpt-3.5-turbo-instruct \$\(touch\$\{IFS\}evil\)' \
            completionctl create --model '' && [ ! -e evil ] &&
        expect "" completionctl create --model x || return 1
    export COMPLETIOND_SOCKET=/nonexistent
    expect "davinci-002" completionctl create --socket "$work/models.sock" --model d &&
        expect "davinci-002" completionctl create "--socket=$work/models.sock" --model d || return 1
    # Nobody is there, in silence.
    offers completionctl create --model d 2>&1 | { ! grep .; }
}

# fish_offers LINE: the last word's.
fish_offers() {
    HOME=$work/home fish --no-config -c "source $source/packaging/completions/completionctl.fish
        complete -C '$1'" | cut -f 1 | sort
}

in_fish() {
    export COMPLETIOND_SOCKET="$work/models.sock"
    fish_offers 'completionctl ' >"$work/offered"
    "$completionctl" help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' >"$work/program"
    same completionctl "$work/program" fish "$work/offered" || return 1
    for command in create models status top; do
        "$completionctl" $command --=x 2>&1 | sed -n 's/.*possibilities://p' |
            grep -o "[-][-][a-z-]*" >"$work/parser"
        fish_offers "completionctl $command --" >"$work/offered"
        same "the parser of $command" "$work/parser" fish "$work/offered" || return 1
    done
    [ "$(fish_offers 'completionctl create --model g')" = gpt-3.5-turbo-instruct ] &&
        [ "$(fish_offers 'completionctl create --model=d')" = --model=davinci-002 ] &&
        [ "$(fish_offers 'completionctl create --output ' | xargs)" = "json text" ] &&
        [ "$(fish_offers 'completionctl create --jsonl st')" = story.txt ]
}

# zsh_offers WORD...: what is handed to zsh for the last of these words, its system being away.
cat >"$work/offers.zsh" <<'ZSH'
_describe() { print -rl -- ${${(P)@[-1]}%%:*}; }
compadd() { print -rl -- ${@[2,-1]}; }
_files() { print -r -- FILES; }
compset() { return 0; }
file=$1
shift
words=("$@")
CURRENT=$#words
PREFIX=$words[-1]
source $file
ZSH
zsh_offers() {
    zsh -f "$work/offers.zsh" "$source/packaging/completions/_completionctl" "$@" | sort
}

in_zsh() {
    export COMPLETIOND_SOCKET="$work/models.sock"
    zsh_offers completionctl '' >"$work/offered"
    "$completionctl" help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' >"$work/program"
    same completionctl "$work/program" zsh "$work/offered" || return 1
    for command in create models status top; do
        "$completionctl" $command --=x 2>&1 | sed -n 's/.*possibilities://p' |
            grep -o "[-][-][a-z-]*" >"$work/parser"
        zsh_offers completionctl $command -- >"$work/offered"
        same "the parser of $command" "$work/parser" zsh "$work/offered" || return 1
    done
    # zsh looks itself which of them fit, and writes them as it must.
    zsh_offers completionctl create --model '' | grep -qx davinci-002 &&
        zsh_offers completionctl create --model=d | grep -qx davinci-002 &&
        ! zsh_offers completionctl create --model '' | grep -F '*' &&
        [ "$(zsh_offers completionctl models --output '' | xargs)" = "json table text" ] &&
        [ "$(zsh_offers completionctl create --output '' | xargs)" = "json text" ] &&
        [ "$(zsh_offers completionctl create --jsonl '')" = FILES ] && [ ! -e evil ]
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
PATH=${completionctl%/*}:$PATH
export PATH
if start; then
    try "models of the configuration" models
    for shell in fish zsh; do
        if command -v $shell >/dev/null; then
            try "the same in $shell" in_$shell
        else
            skip "the same in $shell" "there is no $shell"
        fi
    done
    kill "$daemon_pid"
    wait "$daemon_pid" || n_failed=$((n_failed + 1))
else
    echo "not ok - a daemon starts"
    exit 1
fi
try "nothing is said" is_quiet
finish
