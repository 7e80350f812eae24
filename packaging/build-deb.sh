#!/bin/sh
# Builds the Debian packages of this tree into build/deb. The tree is copied, and stays as it is.
#
#   --into DIRECTORY   where to put them
#   --build-in DIR     an empty directory to build in, which stays; default: a temporary one
#   --if-changed       nothing is done if they are of just this tree
#   --check            runs the unit tests on the way
#   --no-install       Debian packages that are missing are not installed
set -eu
tree=$(cd "$(dirname "$0")/.." && pwd)
into=$tree/build/deb
options=' nocheck'
install=yes if_changed='' place='' scratch=''

while [ $# -gt 0 ]; do
  case $1 in
    --into) into=$2; shift ;;
    --build-in) place=$2; shift ;;
    --if-changed) if_changed=yes ;;
    --check) options= ;;
    --no-install) install= ;;
    *) echo "build-deb.sh: unknown argument $1" >&2; exit 2 ;;
  esac
  shift
done
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$into"
into=$(cd "$into" && pwd)

# Two that build at the same time take turns.
exec 9>"$into.lock"
flock 9

copy_tree() {
  tar -C "$tree" --sort=name --exclude=./build --exclude=./.git --exclude=__pycache__ -cf - .
}
if [ -n "$if_changed" ]; then
  # What is in the files, and not when they were written.
  stamp=$(cd "$tree" && find . \( -path ./build -o -path ./.git -o -name __pycache__ \) -prune -o \
    -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
  if [ "$stamp" = "$(cat "$into/stamp" 2>/dev/null)" ]; then
    exit 0
  fi
fi

[ -z "$install" ] || sh "$tree/packaging/install-dependencies.sh" build package
if [ -z "$place" ]; then
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/completiond-deb.XXXXXX")
  place=$scratch
fi
mkdir -p "$place/completiond"
copy_tree | tar -C "$place/completiond" -xf -
cp -a "$place/completiond/packaging/debian" "$place/completiond/debian"
if ! (cd "$place/completiond" && DEB_BUILD_OPTIONS="parallel=$(nproc)$options" \
  dpkg-buildpackage -us -uc -b) >"$into/build.log" 2>&1 9>&-; then
  tail -n 40 "$into/build.log" >&2
  exit 1
fi
rm -f "$into"/*.deb "$into"/*.buildinfo "$into"/*.changes
mv "$place"/*.deb "$place"/*.buildinfo "$place"/*.changes "$into/"
[ -z "$if_changed" ] || echo "$stamp" >"$into/stamp"
ls "$into"/*.deb
