# Sourced: cases as tests/count.awk counts them.
# shellcheck shell=sh
n_cases=0
n_failed=0

# try NAME COMMAND...: a case, which is the command; what it says is shown if it fails. A command that
# returns 77 could not be run here, and says why.
try() {
  case_name=$1
  shift
  n_cases=$((n_cases + 1))
  # Not behind "||" or in an "if", where "set -e" would not hold inside.
  set +e
  (
    set -e
    "$@"
  ) >"$work/said" 2>&1
  case_status=$?
  set -e
  if [ "$case_status" = 77 ]; then
    echo "ok $n_cases # SKIP $case_name: $(tail -n 1 "$work/said")"
  elif [ "$case_status" = 0 ]; then
    sed -n 's/^figure: /# /p' "$work/said"
    echo "ok $n_cases - $case_name"
  else
    sed 's/^/# /' "$work/said"
    echo "not ok $n_cases - $case_name"
    n_failed=$((n_failed + 1))
  fi
}

# none GREP-ARGUMENTS: there is no such line. ("! grep" would not end a case.)
none() {
  if grep "$@"; then
    echo "which must not be there"
    return 1
  fi
}

finish() {
  echo "1..$n_cases"
  [ "$n_failed" = 0 ]
  exit
}
