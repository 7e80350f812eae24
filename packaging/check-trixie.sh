#!/bin/sh
# Builds the Debian packages on Debian 13 (trixie), with its compiler and libraries, and runs the unit
# tests on the way; then boots that tree, if that is allowed here, and makes a first call and a reload
# with its systemd, which knows Type=notify-reload. Needs root, mmdebstrap, and Debian's packages.
#
#   --keep DIRECTORY   the tree is made there, stays, and is used again
set -eu
tree=$(cd "$(dirname "$0")/.." && pwd)
root='' scratch=''
while [ $# -gt 0 ]; do
  case $1 in
    --keep) root=$2; shift 2 ;;
    *) echo "check-trixie.sh: unknown argument $1" >&2; exit 2 ;;
  esac
done

# All mounts are made in a namespace of its own, and end with it.
if [ "${COMPLETIOND_UNSHARED:-}" != "$$" ]; then
  sh "$tree/packaging/install-dependencies.sh" packagetest
  export COMPLETIOND_UNSHARED=$$
  exec unshare --mount --propagation private -- sh "$0" ${root:+--keep "$root"}
fi

remove() {
  status=$?
  trap - EXIT
  if [ -n "$scratch" ]; then
    # What is mounted there is somebody else's: nothing is removed through a mount.
    for point in $(awk -v top="$scratch/" 'index($2, top) == 1 { print $2 }' /proc/mounts | sort -r); do
      umount "$point" || exit 1
    done
    rm -rf --one-file-system "$scratch"
  fi
  exit "$status"
}
trap remove EXIT
trap 'exit 130' INT TERM
if [ -z "$root" ]; then
  scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/completiond-trixie.XXXXXX")
  root=$scratch/root
fi

# What the tests in the tree need beyond the packages' own dependencies.
with=ca-certificates,dpkg-dev,debhelper,fakeroot,systemd,systemd-sysv,iproute2,curl,procps
if ! [ -e "$root/complete" ]; then
  echo "== making a tree of Debian 13"
  mmdebstrap --quiet --variant=minbase --include="$with" trixie "$root"
  touch "$root/complete"
fi

mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
mkdir -p "$root/tree" "$root/out"
mount -t tmpfs -o mode=755 tmpfs "$root/tree"
tar -C "$tree" --exclude=./build --exclude=./.git -cf - . | tar -C "$root/tree" -xf -

echo "== installing what the build needs"
cp -a "$root/tree/packaging/debian" "$root/tree/debian"
chroot "$root" sh -c 'apt-get -q update && DEBIAN_FRONTEND=noninteractive \
  apt-get -q -y --no-install-recommends build-dep /tree' >"$root/out/apt.log" 2>&1 ||
  { tail -n 20 "$root/out/apt.log" >&2; exit 1; }
rm -rf --one-file-system "$root/tree/debian"

echo "== building, with the unit tests"
chroot "$root" sh -c 'cd /tree && sh packaging/build-deb.sh --check --no-install --into /out'
sed -n 's/^-- The C compiler identification is /compiler: /p' "$root/out/build.log"
grep -E 'tests passed|: warning: ' "$root/out/build.log" || :

echo "== booting it"
boot=$tree/tests/packaging/systemd/boot.sh
place=$(mktemp -d "${TMPDIR:-/var/tmp}/completiond-trixie-boot.XXXXXX")
chmod 755 "$place"
cp "$root"/out/*.deb "$place/"
booted=0
sh "$boot" start "$place" "$root" || booted=$?
if [ "$booted" = 0 ]; then
  # The upstream is a port where nobody listens: the daemon says so, which is enough here.
  sh "$boot" run "$place" sh -euc '
    systemctl --version | head -n 1
    dpkg -i /host/libcompletion0_*.deb /host/completionctl_*.deb /host/completiond_*.deb >/dev/null
    conf=/etc/completiond/completiond.conf.d/check.conf
    install -m 600 /dev/null /etc/completiond/key
    echo sk-check >/etc/completiond/key
    mkdir /etc/systemd/system/completiond.service.d
    printf "[Service]\nLoadCredential=check:/etc/completiond/key\n" \
      >/etc/systemd/system/completiond.service.d/key.conf
    systemctl daemon-reload
    printf "[upstream check]\nbase_url = http://localhost:9/v1\ncredential = check\n" >$conf
    completionctl status
    completionctl create --model m --prompt p 2>&1 | grep UPSTREAM_UNREACHABLE
    [ "$(systemctl show -P Type completiond)" = notify-reload ]
    systemctl reload completiond
    echo "a good configuration is reloaded"
    echo nonsense >>$conf
    if systemctl reload completiond 2>/dev/null; then exit 1; fi
    completionctl status
    echo "a wrong one is refused"
    systemd-analyze verify /usr/lib/systemd/system/completiond.service 2>&1 |
      grep completiond | grep -v man || :
    systemd-analyze security --no-pager completiond | tail -n 1
    dpkg -P completiond completionctl libcompletion0 >/dev/null' || booted=1
  sh "$boot" stop "$place"
fi
rm -rf --one-file-system "$place"
[ "$booted" = 0 ] || [ "$booted" = 77 ]
