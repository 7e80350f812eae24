#!/bin/sh
# Looks for faults without, and with, running the code: gcc -fanalyzer and clang-tidy (.clang-tidy)
# and cppcheck over daemon, proto and client, and valgrind over the optimised unit tests and a daemon
# that serves, reloads and stops. Says what it ran; the exit status is 0 only if nothing was found.
#
#   sh tests/analyse.sh [gcc] [clang-tidy] [cppcheck] [valgrind]      all of them without arguments
#
# Installs what is missing (kinds build and analyse of packaging/dependencies). Takes some minutes, and
# is no part of tests/run.sh.
# shellcheck disable=SC2086 # lists of words
set -eu
tree=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$tree"
jobs=$(nproc)
scratch=$(mktemp -d)
daemon='' sandbox=''
finish() {
    for pid in $daemon $sandbox; do
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

sources=$(find daemon proto client -name '*.c' | sort)

fail() { # also from the end of a pipe
    : >"$scratch/failed"
}

# What was looked at and is no fault: tool, file, a part of the line, and why.
exceptions() {
    cat <<'END'
gcc|client/cli/prompt.c|f != stdin|the file is stdin where it is not closed
gcc|client/cli/prompt.c|fread(|the file is closed behind the loop
gcc|client/../proto/buffer.h|memcpy(p, data, n)|what has a length has bytes
gcc|client/result.c|->top_logprobs[k]->entries[rank]|n is 0 where there are no logprobs
gcc|daemon/config_value.c|grown[n + 1] = NULL|the text is in the list
gcc|daemon/multi.c|return true;|the table is in m, whose end frees it
gcc|daemon/sse.c|memcmp(line, name, offset)|a line of four bytes is not NULL
gcc|proto/grpc/grpc_request.c|strlen(p)|without bytes p is end, and the loop does nothing
gcc|proto/grpc/grpc_server.c|http2_guard_follow(&s->guard|returned whole by a function of another file
clang-tidy|daemon/config.c|while (key->name && strcmp|parse_fail() is always negative: key is set
clang-tidy|daemon/config.c|key->set(p, name, value|parse_fail() is always negative: object is set
clang-tidy|daemon/config_file.c|fgets(line, sizeof line, f)|errno is positive after a failure: f is set
clang-tidy|client/connect.c|strcpy(address.sun_path|its length was looked at
clang-tidy|daemon/server.c|strcpy(address.sun_path|its length was looked at
clang-tidy|daemon/log.c|sscanf(stream|numbers of systemd's; anything else is no journal, which is right
clang-tidy|proto/buffer.c|memcpy(data, b->data + b->start, length)|what has a length has bytes
clang-tidy|proto/json_reader.c|r->at = s->data + s->len|fail() is always false: a number was scanned
cppcheck|daemon/config.c|getpwnam(name)|one thread reads configurations, and libcurl's do not ask for users
cppcheck|daemon/config.c|getgrnam(name)|the same
cppcheck|daemon/main.c|getgrnam(GROUP)|the same
cppcheck|daemon/server.c|accept4(fd, NULL, NULL|nobody asks for the address
cppcheck|daemon/policy.c|SO_PEERGROUPS, NULL, &len|a length of 0 asks for the size
cppcheck|daemon/secret.c|MAP_PRIVATE|an anonymous mapping has descriptor -1
END
}

say() {
    echo "== $*"
}

# judge TOOL: shows the findings on stdin, "FILE:LINE: ...", that are not among the exceptions.
judge() {
    exceptions >"$scratch/exceptions"
    sed "s|^$tree/||" | sort -u | awk -F: -v tool="$1" -v list="$scratch/exceptions" '
        BEGIN {
            while ((getline line <list) > 0) {
                split(line, e, "|")
                if (e[1] == tool) { n++; file[n] = e[2]; part[n] = e[3] }
            }
        }
        $1 ~ /^(daemon|proto|client)\// && $1 !~ /generated/ {
            text = ""
            for (i = 1; i <= $2 && (getline text <$1) > 0; i++);
            close($1)
            known = 0
            for (i = 1; i <= n; i++)
                if (file[i] == $1 && index(text, part[i])) known = 1
            if (known) { n_known++; next }
            print; print "    " text; n_new++
        }
        END { printf "%d found, %d known to be none\n", n_new, n_known; exit n_new > 0 }' ||
        fail
}

run_gcc() {
    say "gcc -fanalyzer, -O2"
    rm -rf build/analyse
    cmake -S . -B build/analyse -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=gcc \
        -DCMAKE_C_FLAGS=-fanalyzer -DCOMPLETIOND_TESTS=OFF >"$scratch/cmake.log"
    cmake --build build/analyse -j "$jobs" >"$scratch/gcc.log" 2>&1 || {
        tail -20 "$scratch/gcc.log"
        fail
    }
    sed -n 's|^\([^ ]*\.[ch]:[0-9]*\):[0-9]*: warning: |\1: |p' "$scratch/gcc.log" | judge gcc
}

configure_release() {
    cmake --preset release >"$scratch/cmake.log"
    ninja -C build/release completion-schema >"$scratch/ninja.log"
}

run_clang_tidy() {
    say "$(clang-tidy --version | sed -n 's/^ *\(.*version [0-9.]*\).*/clang-tidy, \1/p')"
    configure_release
    # One file a process: the analyser carries over what it should not.
    echo "$sources" | xargs -P "$jobs" -n 1 clang-tidy --quiet -p build/release \
        >"$scratch/tidy.log" 2>"$scratch/tidy.err" || :
    if grep -E 'error:' "$scratch/tidy.log"; then
        fail
    fi
    sed -n 's|^\([^ ]*\.[ch]:[0-9]*\):[0-9]*: warning: |\1: |p' "$scratch/tidy.log" |
        judge clang-tidy
}

run_cppcheck() {
    say "$(cppcheck --version)"
    queue=$(echo '#include <sys/queue.h>' | cc -M -E - | tr ' ' '\n' | grep 'sys/queue.h$')
    cppcheck --enable=warning,portability,performance --inline-suppr --quiet --std=c11 -j "$jobs" \
        --library=gnu,posix --include="$queue" --template='{file}:{line}: {message} [{id}]' \
        -D_GNU_SOURCE -DCOMPLETIOND_VERSION='"0"' -I proto -I proto/grpc -I daemon -I client \
        daemon proto client 2>"$scratch/cppcheck.log"
    judge cppcheck <"$scratch/cppcheck.log"
}

# ---- valgrind ----

memcheck='valgrind --quiet --leak-check=full --show-leak-kinds=definite,possible
    --errors-for-leak-kinds=definite,possible --error-exitcode=99'

# verdict NAME STATUS EXPECTED
verdict() {
    if [ "$2" = "$3" ] && [ ! -s "$scratch/$1.valgrind" ]; then
        echo "   $1"
        return
    fi
    echo "   $1: failed, status $2"
    cat "$scratch/$1.valgrind"
    fail
}

check_units() {
    for program in $(find build/release/tests/unit -maxdepth 1 -type f -perm -100 -name 'test_*' | sort); do
        name=$(basename "$program")
        status=0
        $memcheck --log-file="$scratch/$name.valgrind" "$program" >"$scratch/$name.log" 2>&1 ||
            status=$?
        verdict "$name" "$status" 0
    done
}

await() { # what a command does at last, while a process lives
    pid=$1
    shift
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" || return 1
        sleep 0.2
    done
}

ask() {
    build/release/client/completionctl create --socket "$scratch/rpc.sock" --model sandbox \
        --prompt 'Once upon a time' --max-tokens 20 "$@" >"$scratch/answer" 2>&1
}

check_daemon() {
    build/release/tests/upstream/completion-sandbox --model sandbox --listen "unix:$scratch/up.sock" \
        >"$scratch/sandbox.log" 2>&1 &
    sandbox=$!
    printf '[upstream s]\nbase_url = unix:%s:/v1\nauth = none\n' "$scratch/up.sock" >"$scratch/conf"
    $memcheck --log-file="$scratch/daemon.valgrind" build/release/daemon/completiond \
        --config "$scratch/conf" --listen "$scratch/rpc.sock" >"$scratch/daemon.log" 2>&1 &
    daemon=$!
    await "$sandbox" test -S "$scratch/up.sock" && await "$daemon" ask || fail
    for _ in 1 2 3 4 5; do
        ask || fail
        ask --stream || fail
        ask --stream --timeout 0.005 || :
        ask --temperature 9 && fail
    done
    echo nonsense >>"$scratch/conf"
    kill -HUP "$daemon"
    ask --stream || fail
    kill -TERM "$daemon"
    status=0
    wait "$daemon" || status=$?
    daemon=''
    verdict daemon "$status" 0
}

run_valgrind() {
    say "$(valgrind --version), on the release build"
    cmake --preset release >"$scratch/cmake.log"
    cmake --build --preset release -j "$jobs" >"$scratch/build.log" 2>&1 || {
        tail -20 "$scratch/build.log"
        fail
        return
    }
    check_units
    check_daemon
}

sh packaging/install-dependencies.sh build analyse
[ $# -gt 0 ] || set -- gcc clang-tidy cppcheck valgrind
for tool; do
    case $tool in
    gcc) run_gcc ;;
    clang-tidy) run_clang_tidy ;;
    cppcheck) run_cppcheck ;;
    valgrind) run_valgrind ;;
    *) echo "usage: analyse.sh [gcc] [clang-tidy] [cppcheck] [valgrind]" >&2 && exit 2 ;;
    esac
done
if [ -e "$scratch/failed" ]; then
    echo "something was found"
    exit 1
fi
echo "nothing found"
