#!/bin/sh
# Which lines and branches of daemon/, proto/ and client/ the tests of ctest run.
#
#   sh tests/coverage.sh                        builds build/coverage, runs every test, prints a table
#   sh tests/coverage.sh --uncovered [FILE...]  the same, and what was not run of the files: "-" is a
#                                               line, "?" one with a branch that was never taken
#   sh tests/coverage.sh --report [...]         runs nothing: what the last run counted
#
# What is generated does not count, nor do the branches of asserts. A process that is killed by
# SIGKILL, as some tests do, leaves no counts. The exit status is 0 only if every test passed and
# least_lines and least_branches, in percent, are reached.
set -eu
least_lines=95 least_branches=85
tree=$(cd "$(dirname "$0")/.." && pwd)
cd "$tree"

run=yes
if [ "${1-}" = --report ]; then
  run=no
  shift
fi
uncovered=no
if [ "${1-}" = --uncovered ]; then
  uncovered=yes
  shift
elif [ $# -gt 0 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

sh packaging/install-dependencies.sh build test coverage
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
status=0
# The counts are in the build tree: copies that run at once take turns.
mkdir -p build
exec 9>build/coverage.lock
flock 9

if [ $run = yes ]; then
  jobs=$(nproc)
  if ! { cmake --preset coverage && cmake --build --preset coverage -j "$jobs"; } \
      >"$scratch/build.log" 2>&1 9>&-; then
    tail -40 "$scratch/build.log"
    echo "the build failed"
    exit 1
  fi
  find build/coverage -name '*.gcda' -delete
  for folder in "$tree"/../*/llama-server; do
    [ -f "$folder/start.sh" ] && export LLAMA_SERVER="${LLAMA_SERVER-$folder}"
  done
  if ! ctest --test-dir build/coverage -j "$jobs" --timeout 600 --output-on-failure \
      >"$scratch/ctest.log" 2>&1 </dev/null 9>&-; then
    sed -n '/\*\*\*/,$p' "$scratch/ctest.log"
    status=1
  fi
fi

if [ -z "$(find build/coverage -name '*.gcda' -print -quit 2>/dev/null)" ]; then
  echo "there are no counts in build/coverage" >&2
  exit 1
fi
# Source folders: "build" lies beside them, and with it what protoc-c has written.
gcovr --root . --object-directory build/coverage \
  --filter daemon/ --filter proto/ --filter client/ --exclude build/ \
  --exclude-throw-branches --exclude-unreachable-branches \
  --exclude-branches-by-pattern '.*\b(assert|static_assert)\(.*' \
  --json "$scratch/counts.json" --csv "$scratch/counts.csv" \
  build/coverage/daemon build/coverage/proto build/coverage/client

awk -F, -v least_lines=$least_lines -v least_branches=$least_branches '
  function show(name, lines, run, branches, taken) {
    printf "%-32s %5d of %5d lines %5.1f %%  %5d of %5d branches %5.1f %%\n", name, run, lines,
      lines ? 100 * run / lines : 100, taken, branches, branches ? 100 * taken / branches : 100
  }
  function add(name) {
    lines[name] += $2; run[name] += $3; branches[name] += $5; taken[name] += $6
  }
  NR > 1 {
    show($1, $2, $3, $5, $6)
    folder = $1
    sub("[^/]*$", "", folder)
    if (!(folder in lines))
      folders[++n] = folder
    add(folder)
    add("all")
  }
  END {
    for (i = 1; i <= n; i++)
      show(folders[i], lines[folders[i]], run[folders[i]], branches[folders[i]], taken[folders[i]])
    show("all", lines["all"], run["all"], branches["all"], taken["all"])
    exit 100 * run["all"] < least_lines * lines["all"] ||
      100 * taken["all"] < least_branches * branches["all"]
  }' "$scratch/counts.csv" || {
  echo "less than $least_lines % of lines or $least_branches % of branches"
  status=1
}

# Reads gcovr's tables, whose last column is the numbers of the lines.
if [ $uncovered = yes ]; then
  gcovr --root . --add-tracefile "$scratch/counts.json" --output "$scratch/lines"
  gcovr --root . --add-tracefile "$scratch/counts.json" --branches --output "$scratch/branches"
  awk -v wanted="$*" '
    BEGIN {
      n_wanted = split(wanted, names, " ")
    }
    function is_wanted(file,    i) {
      for (i = 1; i <= n_wanted; i++)
        if (index(file, names[i]))
          return 1
      return n_wanted == 0
    }
    FNR == 1 {
      mark = FILENAME ~ /branches$/ ? "?" : "-"
    }
    /^(daemon|proto|client)\// {
      file = $1
    }
    $NF ~ /^[0-9]+([-,][0-9]+)*$/ && $(NF - 1) ~ /%$/ {
      n = split($NF, ranges, ",")
      for (i = 1; i <= n; i++) {
        split(ranges[i], ends, "-")
        for (at = ends[1]; at <= (ends[2] ? ends[2] : ends[1]); at++)
          if (!((file, at) in marks)) {
            marks[file, at] = mark
            if (at > last[file])
              last[file] = at
          }
      }
    }
    END {
      for (file in last)
        if (is_wanted(file))
          for (at = 1; at <= last[file] && (getline line < file) > 0; at++)
            if ((file, at) in marks)
              print file ":" at ": " marks[file, at] " " line
    }' "$scratch/lines" "$scratch/branches" | sort -t : -k 1,1 -k 2,2n
fi
exit $status
