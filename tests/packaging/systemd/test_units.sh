#!/bin/sh
# The units as systemd reads them, without running them.
#
#     test_units.sh UNITS-DIRECTORY COMPLETIOND
#
# UNITS-DIRECTORY: of the build, with the service files; the sockets are the source's.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
source=$here/../../../packaging/systemd
units=$1 completiond=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/completiond-units.XXXXXX")
trap 'rm -rf "$work"' EXIT
. "$here/cases.sh"

# The most that systemd-analyze may find: what redis-server's unit has, and few others.
most=1.2

command -v systemd-analyze >/dev/null || { echo "skipped: there is no systemd-analyze"; exit 77; }

# As installed here: programs where they are, no manual.
lay() {
  mkdir -p "$work/$1"
  cp "$source/$2"*.socket "$work/$1/"
  cp "$units/$2completiond.service" "$work/$1/"
  sed -i "s|/[a-z/]*/sbin/completiond|$completiond|; s|^Documentation=.*||; s|^ExecPaths=.*||" \
    "$work/$1"/*
}

verify() {
  lay "$1" "$2"
  XDG_RUNTIME_DIR=$work systemd-analyze "$3" verify "$work/$1"/* >"$work/verify" 2>&1 || { cat "$work/verify"; return 1; }
  # About units that are not ours it may say what it likes.
  none completiond "$work/verify"
}

exposure() {
  mkdir -p "$work/security"
  cp "$units/completiond.service" "$work/security/"
  systemd-analyze security --offline=true --threshold="$(echo "$most" | tr -d .)" \
    "$work/security/completiond.service" >"$work/table"
  score=$(sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p' "$work/table")
  grep '✗' "$work/table" || :
  echo "figure: exposure level $score, at most $most"
  awk -v score="$score" -v most="$most" 'BEGIN { exit !(score != "" && score + 0 <= most + 0) }'
}

# Why these are, the units say; here they are held.
has() {
  grep -qxF "$2" "$1" || { echo "$(basename "$1") has no line $2"; return 1; }
}
lines_that_must_stay() {
  # Five restarts in ten seconds would take the socket away from the callers.
  has "$units/completiond.service" StartLimitIntervalSec=0
  # Every caller but root would be the user 65534.
  has "$units/completiond.service" PrivateUsers=no
  has "$units/completiond.service" LimitCORE=0
  has "$units/completiond.service" Restart=on-failure
  none -E '^(RuntimeDirectory|DynamicUser|Also)=' "$units/completiond.service"
  has "$source/completiond.socket" SocketMode=0660
  has "$source/completiond.socket" SocketGroup=completiond
  has "$source/completiond.socket" FileDescriptorName=rpc
  has "$source/completiond-metrics.socket" FileDescriptorName=metrics
  has "$source/completiond-metrics.socket" Service=completiond.service
  has "$source/completiond-openai.socket" FileDescriptorName=openai
  has "$source/completiond-openai.socket" Service=completiond.service
  has "$source/completiond-openai.socket" SocketMode=0660
  has "$source/completiond-openai.socket" SocketGroup=completiond
}

every_sandbox_line_is_known_to_this_systemd() {
  lay known ""
  sed -i 's/^ProtectProc=.*/&\nNoSuchOption=yes/' "$work/known/completiond.service"
  systemd-analyze verify "$work/known"/* 2>&1 | grep -q "Unknown key.*NoSuchOption"
}

try "units of the host have no fault" verify system "" --system
try "units of a user have no fault" verify user user/ --user
try "a key that systemd does not know would be found" every_sandbox_line_is_known_to_this_systemd
try "the service is hardly exposed" exposure
try "lines that must stay" lines_that_must_stay
finish
