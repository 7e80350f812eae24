#!/bin/sh
# The Debian packages: what checkers say, what is in them, and that a second build gives the same.
#
#     test_deb.sh TREE
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/completiond-deb-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
. "$here/cases.sh"

for tool in dpkg-buildpackage dh fakeroot; do
  command -v "$tool" >/dev/null || { echo "skipped: there is no $tool"; exit 77; }
done

build() {
  sh "$tree/packaging/build-deb.sh" --if-changed --no-install
  mkdir "$work/debs"
  cp "$tree"/build/deb/*.deb "$tree"/build/deb/*.changes "$tree"/build/deb/*.buildinfo "$work/debs/"
}

deb() {
  echo "$work/debs/$1"_[0-9]*.deb
}

lintian_is_silent() {
  command -v lintian >/dev/null || { echo "there is no lintian"; exit 77; }
  # Where there are no manual pages yet, none can be packed.
  suppress=
  [ -d "$tree/packaging/man" ] || suppress=--suppress-tags=no-manual-page
  lintian --allow-root --pedantic -E $suppress "$work"/debs/*.changes >"$work/lintian" 2>&1 || :
  # Below warnings there are hints that depend on lintian's age.
  none -E '^[EW]:' "$work/lintian"
}

each_file_is_in_its_package() {
  for file in ./usr/sbin/completiond ./usr/lib/sysusers.d/completiond.conf \
    ./etc/completiond/completiond.conf.d/ ./usr/lib/systemd/user/completiond.socket; do
    dpkg-deb -c "$(deb completiond)" | grep -q " $file\$" || { echo "no $file"; return 1; }
  done
  for unit in completiond.socket completiond-metrics.socket completiond-openai.socket \
    completiond.service; do
    dpkg-deb -c "$(deb completiond)" | grep -q "lib/systemd/system/$unit\$"
  done
  dpkg-deb -c "$(deb completionctl)" | grep -q ' ./usr/bin/completionctl$'
  dpkg-deb -c "$(deb libcompletion0)" | grep -q '/libcompletion.so.0 -> '
  dpkg-deb -c "$(deb libcompletion-dev)" | grep -q ' ./usr/include/completion.h$'
  dpkg-deb -c "$(deb libcompletion-dev)" | grep -q '/completion/v1/completion.proto$'
  dpkg-deb -c "$(deb libcompletion-dev)" | grep -q ' ./usr/include/completion/libevent.h$'
  dpkg-deb -c "$(deb libcompletion-dev)" | grep -q '/man3/completion_call_next.3.gz'
  dpkg-deb -c "$(deb libcompletion-dev)" | grep -q '/examples/c/stream.c'
}

configuration_is_a_conffile() {
  [ -f "$tree/packaging/completiond.conf" ] || { echo "there is no packaging/completiond.conf"; exit 77; }
  dpkg-deb -I "$(deb completiond)" conffiles | grep -qx /etc/completiond/completiond.conf
}

# Whoever connects while a socket is restarted is refused.
scripts_never_restart_a_socket() {
  dpkg-deb -e "$(deb completiond)" "$work/scripts"
  grep -h 'deb-systemd-invoke' "$work/scripts/postinst" >"$work/invoked"
  cat "$work/invoked"
  grep -q "deb-systemd-invoke start .*'completiond.socket'" "$work/invoked"
  grep -q "deb-systemd-invoke try-restart 'completiond.service'" "$work/invoked"
  none -E 'invoke [a-z-]*(restart|stop|reload)[a-z-]* .*\.socket' "$work/invoked"
  none 'upgrade.*stop' "$work/scripts/prerm"
}

programs_are_hardened() {
  dpkg-deb -x "$(deb completiond)" "$work/root"
  readelf -hldW "$work/root/usr/sbin/completiond" >"$work/elf"
  grep -q 'Type: *DYN' "$work/elf"
  grep -q GNU_RELRO "$work/elf"
  grep -q BIND_NOW "$work/elf"
  none -E 'RPATH|RUNPATH' "$work/elf"
  readelf -sW --dyn-syms "$work/root/usr/sbin/completiond" | grep -q __stack_chk_fail
  readelf -sW --dyn-syms "$work/root/usr/sbin/completiond" | grep -q '_chk@'
}

# Another folder, another day, another umask and locale.
second_build_is_the_same() {
  mkdir -p "$work/a/rather/longer/path"
  run=
  if command -v faketime >/dev/null; then
    run="faketime 2033-03-03"
  fi
  (
    umask 027
    # shellcheck disable=SC2086 # a command and its argument, or nothing
    LC_ALL=C.UTF-8 TZ=Asia/Tokyo HOME=/nonexistent $run sh "$tree/packaging/build-deb.sh" \
      --no-install --into "$work/second" --build-in "$work/a/rather/longer/path"
  )
  for one in "$work"/debs/*.deb; do
    basename "$one"
    cmp "$one" "$work/second/$(basename "$one")"
  done
}

try "they can be built" build
[ "$n_failed" = 0 ] || finish
try "lintian finds no error and warns of nothing" lintian_is_silent
try "each file is in its package" each_file_is_in_its_package
try "the configuration is a conffile" configuration_is_a_conffile
try "maintainer scripts never restart or stop a socket on an upgrade" scripts_never_restart_a_socket
try "the daemon is hardened" programs_are_hardened
try "a second build gives the same bytes" second_build_is_the_same
finish
