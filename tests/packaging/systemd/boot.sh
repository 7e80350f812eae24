#!/bin/sh
# A real systemd as process 1, for tests that install, start, kill and remove things as on a host. It
# runs in namespaces of its own (mounts, processes, network, ...) on an overlay of a root: what it
# writes is gone with it, and its network is a loopback.
#
#     boot.sh start DIRECTORY [ROOT]    boots it; ROOT is / or another tree
#     boot.sh run DIRECTORY COMMAND...  runs a command inside, as root
#     boot.sh stop DIRECTORY            shuts it down
#
# DIRECTORY is the caller's, and shows up inside as /host. 77: not allowed here.
set -eu
verb=$1
directory=$(cd "$2" && pwd)
shift 2

# Control groups of version 2, where systemd can have one of its own; "" if there is none.
find_group() {
  for base in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    if [ -e "$base/cgroup.procs" ] && [ -w "$base/cgroup.procs" ]; then
      echo "$base"
      return
    fi
  done
}

leader() {
  cat "$directory/leader"
}

inside() {
  pid=$1
  shift
  nsenter -t "$pid" --mount --uts --ipc --net --pid --cgroup --root --wd -- "$@"
}

# Runs in the new namespaces, as the first process there.
become_init() {
  root=$1
  top=$directory/top
  mount --make-rprivate /
  mount -t tmpfs -o size=2g,mode=755 completiond-boot "$top"
  mkdir "$top/upper" "$top/work" "$top/root"
  mount -t overlay -o "lowerdir=$root,upperdir=$top/upper,workdir=$top/work" overlay "$top/root"
  cd "$top/root"
  mkdir -p proc sys dev run tmp host oldroot
  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs dev
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
  done
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs -o mode=1777 tmpfs tmp
  mount --bind "$directory" host
  : >etc/machine-id
  # Some images forbid packages to start what they install.
  rm -f usr/sbin/policy-rc.d
  ip link set lo up
  pivot_root . oldroot
  umount -l /oldroot
  # Without this the mounts that services get credentials by stay invisible to them.
  mount --make-rshared /
  exec env -i container=completiond-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target --show-status=0 --log-target=journal
}

start() {
  root=${1:-/}
  mkdir -p "$directory/top"
  if ! unshare --mount --pid --fork --net sh -c \
    'mount --make-rprivate / && mount -t tmpfs tmpfs "$1"' - "$directory/top" 2>"$directory/log"; then
    echo "skipped: namespaces and mounts are not allowed here ($(tail -n 1 "$directory/log"))"
    exit 77
  fi
  base=$(find_group)
  if [ -z "$base" ]; then
    echo "skipped: there is no control group (version 2) that can be written"
    exit 77
  fi
  group=$base/completiond-test.$$
  mkdir "$group"
  echo "$group" >"$directory/group"
  setsid sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' - "$group" \
    unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child \
    sh "$0" init "$directory" "$root" </dev/null >"$directory/log" 2>&1 &
  outer=$!
  tries=0
  while [ "$tries" -lt 300 ]; do
    pid=$(pgrep -P "$outer" | head -n 1) || pid=
    if [ -n "$pid" ]; then
      case $(inside "$pid" systemctl is-system-running 2>/dev/null) in
        running | degraded)
          echo "$pid" >"$directory/leader"
          exit 0
          ;;
      esac
    fi
    kill -0 "$outer" 2>/dev/null || break
    tries=$((tries + 1))
    sleep 0.1
  done
  echo "boot.sh: systemd did not come up" >&2
  cat "$directory/log" >&2
  kill -9 "$outer" 2>/dev/null || :
  exit 1
}

stop() {
  if [ -s "$directory/leader" ]; then
    pid=$(leader)
    # Halt, as systemd(1) has it.
    kill -s RTMIN+4 "$pid" 2>/dev/null || :
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do
      tries=$((tries + 1))
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || :
    rm -f "$directory/leader"
  fi
  if [ -s "$directory/group" ]; then
    # The deepest first; what has just ended may still be on its way out.
    group=$(cat "$directory/group")
    tries=0
    while [ -d "$group" ] && [ "$tries" -lt 100 ]; do
      tries=$((tries + 1))
      find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || :
      [ ! -d "$group" ] || sleep 0.1
    done
    rm -f "$directory/group"
  fi
}

case $verb in
  start) start "$@" ;;
  run) inside "$(leader)" "$@" ;;
  stop) stop ;;
  init) become_init "$@" ;;
  *) echo "boot.sh: unknown verb $verb" >&2; exit 2 ;;
esac
