#!/bin/sh
# grpc-go, and with it grpcurl, which is made of that: the daemon's services are known without a .proto.
# grpcurl itself is tried where there is one. Argument: daemon. 77: skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
completiond=$1

command -v go >/dev/null && [ -d /usr/share/gocode/src/google.golang.org/grpc/reflection ] ||
  { echo "skipped: there is no golang-go or golang-google-grpc-dev"; exit 77; }
# Its stubs are of the same generation as golang/protobuf 1.3, which Debian 12 has.
[ -d /usr/share/gocode/src/github.com/golang/protobuf/protoc-gen-go/descriptor ] ||
  { echo "skipped: there is no golang/protobuf"; exit 77; }
export GO111MODULE=off GOFLAGS='' GOPATH=/usr/share/gocode
export GOCACHE="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/completiond-tests/go"

work=$(mktemp -d)
daemon_pid=
end() {
  status=$?
  trap - EXIT
  if [ -n "$daemon_pid" ]; then
    kill "$daemon_pid" 2>/dev/null || :
    wait "$daemon_pid" || status=1
  fi
  rm -rf "$work"
  exit $status
}
trap end EXIT

go build -o "$work/services" "$here/services.go"
mkfifo "$work/log"
OPENAI_BASE_URL=http://127.0.0.1:1/v1 "$completiond" --config /dev/null --listen "$work/rpc.sock" 2>"$work/log" &
daemon_pid=$!
exec 4<"$work/log"
while read -r line <&4; do
  case $line in *"listening on"*) break ;; esac
  echo "$line"
done

cat >"$work/expected" <<'END'
completion.v1.Completions/Create(.completion.v1.CreateCompletionRequest)
completion.v1.Completions/CreateStream(.completion.v1.CreateCompletionRequest)
completion.v1.Status/Get(.completion.v1.GetStatusRequest)
grpc.health.v1.Health/Check(.grpc.health.v1.HealthCheckRequest)
grpc.health.v1.Health/Watch(.grpc.health.v1.HealthCheckRequest)
grpc.reflection.v1.ServerReflection/ServerReflectionInfo(.grpc.reflection.v1.ServerReflectionRequest)
grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo(.grpc.reflection.v1alpha.ServerReflectionRequest)
Nothing: 5
health: SERVING
END
"$work/services" "$work/rpc.sock" | diff "$work/expected" -
echo "ok 1 - grpc-go"

if command -v grpcurl >/dev/null; then
  grpcurl -plaintext -unix "$work/rpc.sock" list >"$work/list"
  sed -n 's|^\([a-z].*\)/.*(.*|\1|p' "$work/expected" | sort -u | diff - "$work/list"
  grpcurl -plaintext -unix "$work/rpc.sock" grpc.health.v1.Health/Check | grep -q SERVING
  echo "ok 2 - grpcurl"
else
  echo "ok 2 # SKIP there is no grpcurl"
fi
