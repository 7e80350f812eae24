#!/bin/sh
# Installs the Debian packages of packaging/dependencies that are missing, and says so first.
# Arguments: which kinds: "build", "build test", ...
set -eu
list=$(dirname "$0")/dependencies

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "This is no Debian: the packages of packaging/dependencies are taken to be there." >&2
  exit 0
fi

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=
for kind in "$@"; do
  while read -r for package instead; do
    [ "$for" = "$kind" ] || continue
    is_installed "$package" && continue
    [ -n "$instead" ] && command -v "$instead" >/dev/null && continue
    missing="$missing $package"
  done < "$list"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null; then
  as_root=sudo
else
  echo "These packages are missing, and there is neither root nor sudo to install them:$missing" >&2
  exit 1
fi
echo "Installing Debian packages:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # lists of words
if ! { $as_root apt-get -q update && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install $missing; } >"$log" 2>&1 </dev/null; then
  tail -20 "$log" >&2
  echo "apt-get failed" >&2
  exit 1
fi
