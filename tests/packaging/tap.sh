# Sourced by the tests here: cases as tests/count.awk counts them, and a directory of the test's own.
# shellcheck shell=sh
n_cases=0
n_failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/completiond-packaging.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# try NAME COMMAND...: a case, which is the command; what it says is shown if it fails.
try() {
    case_name=$1
    shift
    n_cases=$((n_cases + 1))
    if ("$@") >"$work/said" 2>&1; then
        echo "ok $n_cases - $case_name"
    else
        sed 's/^/# /' "$work/said"
        echo "not ok $n_cases - $case_name"
        n_failed=$((n_failed + 1))
    fi
}

# skip NAME REASON
skip() {
    n_cases=$((n_cases + 1))
    echo "ok $n_cases # SKIP $1: $2"
}

finish() {
    echo "1..$n_cases"
    [ "$n_failed" = 0 ]
    exit
}

# same WHAT-ONE-IS ONE WHAT-OTHER-IS OTHER: two files have the same lines, in any order.
same() {
    sort -u "$2" >"$work/one"
    sort -u "$4" >"$work/other"
    [ -s "$work/one" ] || { echo "nothing is found: $1"; return 1; }
    comm -23 "$work/one" "$work/other" | awk -v what="$1" '{ print "only in " what ": " $0 }'
    comm -13 "$work/one" "$work/other" | awk -v what="$3" '{ print "only in " what ": " $0 }'
    cmp -s "$work/one" "$work/other"
}
