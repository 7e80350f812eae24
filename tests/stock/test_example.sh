#!/bin/sh
# An example does what it says: built outside of the tree with an installed copy, by the commands of its
# README, it asks the daemon, which asks the offline upstream. 77: what it needs is not there.
#
#     test_example.sh LANGUAGE SOURCE BUILD COMPLETIOND SANDBOX
set -eu
language=$1 source=$2 build=$3 completiond=$4 sandbox=$5
example=$source/client/examples/$language
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/completiond-tests
readme=$example/README.md

skip() {
  echo "skipped: $*"
  exit 77
}

needs() {
  for command; do
    command -v "$command" >/dev/null || skip "there is no $command (see $readme)"
  done
}

needs protoc pkg-config curl
case $language in
python)
  needs grpc_python_plugin
  /usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || skip "there is no python3-grpcio"
  ;;
node)
  needs node
  # test_node.sh has filled it.
  [ -d "$cache/node/node_modules/@grpc/proto-loader" ] || skip "there is no @grpc/proto-loader"
  export NODE_PATH="$cache/node/node_modules"
  ;;
cpp)
  needs make g++ grpc_cpp_plugin
  pkg-config --exists grpc++ protobuf || skip "there is no libgrpc++-dev"
  ;;
go)
  needs go protoc-gen-go
  # The plugin and the library have to be of one generation.
  [ -d /usr/share/gocode/src/google.golang.org/grpc ] || skip "there is no golang-google-grpc-dev"
  dpkg-query -W protoc-gen-go-1-3 >/dev/null 2>&1 || skip "there is no protoc-gen-go-1-3"
  export GOCACHE="$cache/go" GOFLAGS=
  ;;
esac

# The commands, and the packages that they need; those are also what the tests' machines get.
commands=$(sed -n 's/^    //p' "$readme")
packages=$(echo "$commands" | sed -n 's/^apt-get install libcompletion-dev //p')
for package in $packages; do
  awk -v package="$package" '/^(build|test) / && $2 == package { found = 1 } END { exit !found }' \
    "$source/packaging/dependencies" || { echo "$package is not in packaging/dependencies"; exit 1; }
done
commands=$(echo "$commands" | grep -vE '^(apt-get|npm) install')

work=$(mktemp -d)
daemon_pid='' sandbox_pid=''
end() {
  status=$?
  trap - EXIT
  for pid in $daemon_pid $sandbox_pid; do
    kill "$pid" 2>/dev/null || :
    wait "$pid" || status=1
  done
  rm -rf "$work"
  exit $status
}
trap end EXIT

cmake --install "$build" --prefix "$work/prefix" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
pc=$(find "$work/prefix" -name libcompletion.pc)
PKG_CONFIG_PATH=$(dirname "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
cp -r "$example" "$work/example"

# Slow enough that whoever cancels, or has no time, is before the end.
mkfifo "$work/ready" "$work/daemon.log"
"$sandbox" --tokens-per-second 50 --listen "unix:$work/upstream.sock" --ready-fd 3 3>"$work/ready" \
  >"$work/sandbox.log" 2>&1 &
sandbox_pid=$!
read -r base_url <"$work/ready"
printf '[upstream sandbox]\nbase_url = %s\nauth = none\n' "$base_url" >"$work/daemon.conf"
"$completiond" --config "$work/daemon.conf" --listen "$work/rpc.sock" 2>"$work/daemon.log" &
daemon_pid=$!
exec 4<"$work/daemon.log"
while read -r line <&4; do
  case $line in *"listening on"*) break ;; esac
  echo "$line"
done
cat <&4 >"$work/calls.log" &

export COMPLETIOND_SOCKET="$work/rpc.sock"
(cd "$work/example" && echo "$commands" | sh -eu) >"$work/answer" 2>"$work/errors" </dev/null ||
  { cat "$work/errors" "$work/answer"; exit 1; }

case $language in
go) names='DeadlineExceeded InvalidArgument' ;;
*) names='DEADLINE_EXCEEDED INVALID_ARGUMENT' ;;
esac
cat >"$work/expected" <<END
unary: there was a miller who lived by the river. The miller
stream: there was a miller who lived by the river. The miller
cancelled after: there
deadline: ${names% *}
error: ${names#* } INVALID_REQUEST temperature
END
grep -E '^(unary|stream|cancelled after|deadline|error):' "$work/answer" >"$work/said" || :
diff "$work/expected" "$work/said" || { cat "$work/errors" "$work/calls.log"; exit 1; }

# The two that were given up have been stopped where they were made.
n=0
until curl -s --unix-socket "$work/upstream.sock" http://localhost/stats >"$work/stats" &&
  grep -q '"clients_gone":2,"active":0' "$work/stats"; do
  n=$((n + 1))
  [ $n -lt 200 ] || { cat "$work/stats"; exit 1; }
  sleep 0.1
done
cat "$work/said"
