# Reads the output of "ctest -V" and counts: the cases of programs that speak TAP (cmocka) or are
# Python's unittest, one for any other program. Prints what failed or was skipped, and why; the last
# line is "PASSED FAILED SKIPPED". Lines of programs that run at the same time are mixed, but begin
# with the test's number.

/^ *Start +[0-9]+: / {
  name_of[$2 + 0] = $3
  next
}

/^[0-9]+: / {
  id = $1 + 0
  line = substr($0, index($0, ": ") + 2)
  if (line ~ /^(not )?ok [0-9]* ?# SKIP/) {
    skips[id]++
    sub(/^.*# SKIP */, "", line)
    reason[id] = reason[id] "skipped: " name_of[id] ": " line "\n"
  } else if (line ~ /^ok [0-9]* ?- /) {
    oks[id]++
  } else if (line ~ /^not ok [0-9]* ?- /) {
    bads[id]++
  } else if (line ~ /^Ran [0-9]+ tests? in /) {
    split(line, words, " ")
    ran[id] = words[2]
  } else if (line ~ /^(OK|FAILED)( \(.*\))?$/) {
    bads[id] += number(line, "failures=") + number(line, "errors=")
    skips[id] += number(line, "skipped=")
  } else if (line ~ /^skipped: / || line ~ / \.\.\. skipped /) {
    sub(/^.*skipped:? */, "", line)
    reason[id] = reason[id] "skipped: " name_of[id] ": " line "\n"
  }
  output[id] = output[id] line "\n"
  next
}

# " 3/40 Test  #3: unit/test_sse ........   Passed    0.12 sec"
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
  match($0, /#[0-9]+/)
  id = substr($0, RSTART + 1, RLENGTH - 1) + 0
  name = substr($0, RSTART + RLENGTH + 2)
  sub(/ .*/, "", name)
  ended[id] = 1
  if (id in ran)
    oks[id] += ran[id] - bads[id] - skips[id]
  known = oks[id] + bads[id] + skips[id] > 0

  if ($0 ~ /\*\*\*Skipped/) {
    printf "%s", reason[id] == "" ? "skipped: " name "\n" : reason[id]
    skipped++
    next
  }
  if ($0 !~ / Passed +[0-9.]+ sec/) {
    if (bads[id] == 0)
      bads[id] = 1 # it crashed, took too long, or left something behind
    printf "%s", output[id]
    result = $0
    sub(/^.*\*\*\*/, "", result)
    print "failed: " name " (" result ")"
  } else if (!known) {
    oks[id] = 1
  }
  printf "%s", reason[id]
  passed += oks[id]
  failed += bads[id]
  skipped += skips[id]
  n_programs++
}

function number(line, key,    at) {
  at = index(line, key)
  return at ? substr(line, at + length(key)) + 0 : 0
}

END {
  if (n_programs == 0) {
    print "failed: ctest ran nothing"
    failed++
  }
  print passed + 0, failed + 0, skipped + 0
}
