#!/bin/sh
# Installs what is missing, builds build/release, starts the offline upstream and the daemon on a
# socket of their own, completes a prompt, unary and streamed, and ends both. Shows the commands that
# it runs. Needs no key, and no network but for the packages. Can be run again.
set -eu
cd "$(dirname "$0")/.."
release=build/release
scratch=
sandbox=
daemon=

end() {
  status=$?
  trap - EXIT
  for pid in $daemon $sandbox; do
    kill "$pid" 2>/dev/null || :
    wait "$pid" 2>/dev/null || :
  done
  [ -z "$scratch" ] || rm -rf "$scratch"
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() {
  printf '\n== %s\n' "$*"
}

# A command as it could be typed.
show() {
  printf '$ %s\n' "$*"
}

sh packaging/install-dependencies.sh build

say "building $release"
log=$(mktemp)
mkdir -p build
if ! (
  flock 9
  cmake --preset release &&
    cmake --build --preset release --target completiond completionctl completion-sandbox
) >"$log" 2>&1 9>"$release.lock"; then
  tail -40 "$log" >&2
  rm -f "$log"
  exit 1
fi
rm -f "$log"

say "starting an offline upstream, a small n-gram model, and the daemon"
scratch=$(mktemp -d /tmp/completiond-quickstart.XXXXXX)
show mkdir "$scratch"
show "$release/tests/upstream/completion-sandbox --listen unix:$scratch/upstream.sock &"
mkfifo "$scratch/ready"
"$release/tests/upstream/completion-sandbox" --listen "unix:$scratch/upstream.sock" --ready-fd 3 \
  >"$scratch/upstream.log" 2>&1 3>"$scratch/ready" &
sandbox=$!
read -r base_url <"$scratch/ready" || {
  cat "$scratch/upstream.log" >&2
  exit 1
}

show "printf '[upstream sandbox]\\nbase_url = $base_url\\nauth = none\\n' >$scratch/sandbox.conf"
printf '[upstream sandbox]\nbase_url = %s\nauth = none\n' "$base_url" >"$scratch/sandbox.conf"
show "$release/daemon/completiond --config $scratch/sandbox.conf --listen $scratch/rpc.sock &"
"$release/daemon/completiond" --config "$scratch/sandbox.conf" --listen "$scratch/rpc.sock" \
  2>"$scratch/daemon.log" &
daemon=$!
tries=0
until "$release/client/completionctl" status --socket "$scratch/rpc.sock" >"$scratch/status" 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" = 100 ] || ! kill -0 "$daemon" 2>/dev/null; then
    cat "$scratch/daemon.log" "$scratch/status" >&2
    exit 1
  fi
  sleep 0.1
done
show "$release/client/completionctl status --socket $scratch/rpc.sock"
cat "$scratch/status"

say "a completion, as JSON"
show "$release/client/completionctl create --socket $scratch/rpc.sock \\
    --model gpt-3.5-turbo-instruct --prompt 'Once upon a time' --max-tokens 24 --seed 1 \\
    --output json"
"$release/client/completionctl" create --socket "$scratch/rpc.sock" \
  --model gpt-3.5-turbo-instruct --prompt 'Once upon a time' --max-tokens 24 --seed 1 --output json

say "a completion, streamed, as text"
show "$release/client/completionctl create --socket $scratch/rpc.sock \\
    --model gpt-3.5-turbo-instruct --prompt 'Once upon a time' --max-tokens 64 \\
    --stream --output text"
"$release/client/completionctl" create --socket "$scratch/rpc.sock" \
  --model gpt-3.5-turbo-instruct --prompt 'Once upon a time' --max-tokens 64 \
  --stream --output text

say "done; both servers are ended. README.md goes on from here"
