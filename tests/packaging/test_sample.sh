#!/bin/sh
# The sample configuration has every key at its default, and can be used, with and without its "#".
#
#     test_sample.sh SOURCE COMPLETIOND COMPLETIONCTL MANUAL-KEYS
set -u
source=$1 completiond=$2 manual_keys=$4
. "$source/tests/packaging/tap.sh"
sample=$source/packaging/completiond.conf

# Settings, and not what explains them.
sed -n 's/^#\([[a-z]\)/\1/p' "$sample" >"$work/settings"

keys_and_defaults() {
    awk '
        /^\[/ { section = substr($1, 2); sub(/\]/, "", section); next }
        {
            value = $0
            sub(/^[^=]*= ?/, "", value)
            print section "\t" $1 "\t" value
        }' "$work/settings" | "$manual_keys"
}

is_right() {
    env -u OPENAI_BASE_URL "$completiond" --config "$1" --check-config
}

sets_nothing() {
    ! grep -v -e '^#' -e '^$' "$sample"
}

# A token can't be without these, whatever the sample has for them.
token_is_right() {
    echo 0123456789abcdef >"$work/token"
    chmod 600 "$work/token"
    printf '%s\n' "$1" credential= "user = $(id -u)" "credential_file = $work/token"
}

# Each setting by itself too, below its section's name and what that can't do without.
one_line_is_right() {
    section=
    while read -r line; do
        case $line in
        \[*) section=$line; continue ;;
        esac
        mkdir -p "$work/one.conf.d"
        case $section in
        '[token'*) token_is_right "$section" >"$work/one.conf.d/token.conf" ;;
        *) : >"$work/one.conf.d/token.conf" ;;
        esac
        {
            echo "$section"
            case $section in
            '[upstream'*) echo "base_url = http://127.0.0.1:1/v1" ;;
            esac
            echo "$line"
        } >"$work/one.conf"
        is_right "$work/one.conf" || { echo "with: $line"; return 1; }
    done <"$work/settings"
}

sed 's/^#\([[a-z]\)/\1/' "$sample" >"$work/all.conf"
mkdir "$work/all.conf.d"
token_is_right '[token example]' >"$work/all.conf.d/token.conf"
try "the sample has the keys and their defaults" keys_and_defaults
try "the sample sets nothing" sets_nothing
try "the sample can be used" is_right "$sample"
try "the sample can be used with every line" is_right "$work/all.conf"
try "the sample can be used with one line" one_line_is_right
finish
