#!/bin/sh
# The examples of the manual work, as they are but for places, against the offline upstream.
#
#     test_examples.sh SOURCE COMPLETIOND COMPLETIONCTL MANUAL-KEYS SANDBOX
set -u
source=$1 completiond=$2 completionctl=$3 sandbox=$5
. "$source/tests/packaging/tap.sh"
man=$source/packaging/man
daemon_pid=
sandbox_pid=

end() {
    status=$?
    trap - EXIT
    for pid in $daemon_pid $sandbox_pid; do
        kill "$pid" 2>/dev/null
        wait "$pid" || status=1
    done
    rm -rf "$work"
    exit $status
}
trap end EXIT

# The literal blocks of a page that begin with a line like this, as they are read.
block() {
    awk -v first="$2" '
        /^\.Bd -literal/ { n = 0; here = 1; next }
        /^\.Ed/ { here = 0 }
        here && n++ == 0 { found = $0 ~ first }
        here && found' "$man/$1" | sed 's/\\e/\\/g; s/\\-/-/g; s/^\\&//'
}

# Commands and programs, with the places of this test.
at_home() {
    sed -e "s|/run/completiond/rpc.sock|$work/rpc.sock|" -e "s|/usr/share/completiond/proto|$source/proto|" \
        -e "s|^completionctl |$completionctl |" -e "s|--model m |--model gpt-3.5-turbo-instruct |"
}

start() {
    mkfifo "$work/ready"
    "$sandbox" --listen "unix:$work/upstream.sock" --ready-fd 3 3>"$work/ready" 2>"$work/sandbox.log" &
    sandbox_pid=$!
    read -r base_url <"$work/ready"
    printf '[upstream sandbox]\nbase_url = %s\nauth = none\n' "$base_url" >"$work/daemon.conf"
    # It listens before it says so.
    mkfifo "$work/log"
    "$completiond" --config "$work/daemon.conf" --listen "$work/rpc.sock" 2>"$work/log" &
    daemon_pid=$!
    # It stays open: the daemon has more to say, and takes no harm if nobody reads it.
    exec 4<"$work/log"
    while read -r line <&4; do
        case $line in
        *"listening on"*) return 0 ;;
        esac
        echo "# $line"
    done
    return 1
}

# Each line is a command, and says something.
commands_of_completionctl() {
    cd "$work" || return 1
    echo 'Once upon a time' >story.txt
    cp story.txt question.txt
    block completionctl.1 '^completionctl create --model gpt' | at_home >commands
    [ -s commands ] || return 1
    export COMPLETIOND_SOCKET="$work/rpc.sock"
    while read -r line; do
        sh -c "$line" </dev/null >answer || { echo "$line"; return 1; }
        [ -s answer ] || { echo "it says nothing: $line"; return 1; }
    done <commands
    [ "$(grep -c . answer)" -gt 0 ]
}

# The block in which a status is looked at.
script_of_completionctl() {
    block completionctl.1 'create .*--timeout' | at_home >"$work/script"
    [ -s "$work/script" ] && COMPLETIOND_SOCKET="$work/rpc.sock" sh -e "$work/script" >"$work/answer" &&
        grep -q text_completion "$work/answer"
}

# What goes on after an interruption, and what asks again for what has failed.
batch_of_completionctl() {
    cd "$work" || return 1
    printf '{"prompt":"One"}\n{"prompt":3}\n{"prompt":"Three"}\n' >requests.jsonl
    block completionctl.1 '^completionctl create .*--jobs' | at_home >batch
    [ -s batch ] || return 1
    export COMPLETIOND_SOCKET="$work/rpc.sock"
    for time in first second; do
        sh batch
        [ $? = 8 ] && [ "$(wc -l <answers.jsonl)" = 3 ] || { echo "the $time time"; return 1; }
    done
    command -v jq >/dev/null || return 0
    block completionctl.1 '^jq' | sed 's/error.retryable/error/' >failed
    sh failed && [ "$(cat again.jsonl)" = '{"prompt":3}' ]
}

python() {
    block completion.7 '^#!/usr/bin/python3' | at_home >"$work/example.py"
    protoc -I "$source/proto" --python_out="$work" completion/v1/completion.proto &&
        cd "$work" && PYTHONPATH=$work /usr/bin/python3 -B example.py >answer 2>errors ||
        { cat errors; return 1; }
    cat answer
    [ "$(wc -c <answer)" -gt 20 ]
}

curl_and_protoc() {
    block completion.7 '^#!/bin/sh' | at_home >"$work/example.sh"
    sh -eu "$work/example.sh" >"$work/answer" && cat "$work/answer" &&
        grep -q 'object: "text_completion"' "$work/answer"
}

# Keys have to be there, and places are to be filled in.
configurations() {
    echo sk-example >"$work/openai.key"
    cp "$work/openai.key" "$work/azure.key"
    chmod 600 "$work"/*.key
    n=0
    block completiond.conf.5 '^\[' >"$work/blocks"
    # Each begins anew: an upstream or everyone's policy.
    for first in '^.upstream vllm' '^.upstream local' '^.upstream azure' '^.policy'; do
        block completiond.conf.5 "$first" |
            sed "s|/etc/completiond/openai.key|$work/openai.key|" >"$work/example.conf"
        [ -s "$work/example.conf" ] || { echo "no block begins with $first"; return 1; }
        CREDENTIALS_DIRECTORY=$work "$completiond" --config "$work/example.conf" --check-config ||
            return 1
        n=$((n + $(wc -l <"$work/example.conf")))
    done
    [ "$n" = "$(wc -l <"$work/blocks")" ]
}

if ! start; then
    echo "not ok 1 - a daemon starts"
    exit 1
fi
try "the commands in completionctl(1)" commands_of_completionctl
try "the script in completionctl(1)" script_of_completionctl
try "the batches in completionctl(1)" batch_of_completionctl
if ! command -v protoc >/dev/null; then
    skip "the program in completion(7)" "there is no protoc"
elif ! /usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null; then
    skip "the program in completion(7)" "python3-grpcio and python3-protobuf are missing"
else
    try "the program in completion(7)" python
fi
if command -v protoc >/dev/null && curl --version 2>/dev/null | grep -q HTTP2; then
    try "the script in completion(7)" curl_and_protoc
else
    skip "the script in completion(7)" "protoc, or curl with HTTP/2, is missing"
fi
try "the configurations in completiond.conf(5)" configurations
finish
