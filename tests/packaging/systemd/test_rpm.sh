#!/bin/sh
# The RPM specification, as far as a Debian's rpm can tell: it can be read, and each file that is
# installed is in just one package. It is not built: its build dependencies are other packages' names.
#
#     test_rpm.sh TREE
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$1
spec=$tree/packaging/completiond.spec
work=$(mktemp -d "${TMPDIR:-/tmp}/completiond-rpm.XXXXXX")
trap 'rm -rf "$work"' EXIT
. "$here/cases.sh"

command -v rpmspec >/dev/null || { echo "skipped: there is no rpmspec (package rpm)"; exit 77; }

# Macros of Fedora that Debian's rpm lacks; the others are as they are here.
cat >"$work/macros" <<'END'
%_unitdir /usr/lib/systemd/system
%_userunitdir /usr/lib/systemd/user
%_sysusersdir /usr/lib/sysusers.d
%_sysconfdir /etc
%_libdir /usr/lib64
%_sharedstatedir /var/lib
%cmake cmake
%cmake_build cmake --build .
%cmake_install DESTDIR=%{buildroot} cmake --install .
%systemd_requires Requires: systemd
%sysusers_requires_compat Requires: shadow-utils
%sysusers_create_compat() :
%systemd_post() systemctl preset %*
%systemd_preun() systemctl disable --now %*
%systemd_postun() :
%systemd_postun_with_restart() systemctl try-restart %*
END

parse() {
  rpmspec --load "$work/macros" -P "$spec" >"$work/parsed" 2>"$work/errors"
  cat "$work/errors"
  [ ! -s "$work/errors" ]
  none -nE '%\{?[a-z_]+[a-z]\}?/|%\{[a-z_?!]*\}' "$work/parsed"
  rpmspec --load "$work/macros" -q --qf '%{name}\n' "$spec" | sort >"$work/names"
  printf 'completionctl\ncompletiond\nlibcompletion\nlibcompletion-devel\n' | cmp - "$work/names"
}

version_is_the_project_s() {
  version=$(sed -n 's/^project(completiond VERSION \([0-9.]*\).*/\1/p' "$tree/CMakeLists.txt")
  grep -qx "Version: *$version" "$spec"
  head -n 1 "$tree/packaging/debian/changelog" | grep -q "^completiond ($version)"
}

# A build here, installed as the specification says.
files_are_in_one_package_each() {
  cmake -S "$tree" -B "$work/build" -G Ninja -DCMAKE_INSTALL_PREFIX=/usr -DCOMPLETIOND_TESTS=OFF \
    -DCMAKE_INSTALL_LIBDIR=lib64 -DCMAKE_INSTALL_SYSCONFDIR=/etc \
    -DCOMPLETIOND_SYSTEM_UNIT_DIR=/usr/lib/systemd/system >"$work/log"
  # Their names are enough.
  awk '/^%files/ { on = 1 } /^%changelog/ { on = 0 } on && /^(%config|%dir|\/)/ { print $NF }' \
    "$work/parsed" | sort >"$work/listed"
  [ "$(uniq -d <"$work/listed")" = "" ]
  sed -n 's/^ *file(INSTALL DESTINATION "\${CMAKE_INSTALL_PREFIX}\([^"]*\)".*FILES "\(.*\)")/\1 \2/p' \
    $(find "$work/build" -name cmake_install.cmake) |
    while read -r folder files; do
      for file in $files; do
        file=/usr$folder/$(basename "$(echo "$file" | tr -d '"')")
        case $file in */doc/completiond/completiond.conf) continue ;; esac
        # A folder holds what is below; a pattern ends in *.
        found=
        while read -r entry; do
          case $file in $entry | ${entry%/}/*) found=1 ;; esac
        done <"$work/listed"
        [ -n "$found" ] || { echo "in no package: $file"; touch "$work/lost"; }
      done
    done
  [ ! -e "$work/lost" ]
  grep -qx /usr/sbin/completiond "$work/listed"
}

sockets_are_not_restarted() {
  none -E '^systemctl (try-)?restart .*\.socket' "$work/parsed"
}

try "the specification can be read" parse
try "versions agree" version_is_the_project_s
try "each file is in a package" files_are_in_one_package_each
try "no script restarts a socket" sockets_are_not_restarted
finish
