#!/bin/sh
# The examples and adapters of libcompletion, built outside of the tree against an installed copy,
# by pkg-config and by CMake, and run against a daemon with the offline upstream.
#
#     library_examples.sh SOURCE BUILD CC CXX SANITIZERS COMPLETIOND SANDBOX
set -u
source=$1 build=$2 cc=$3 cxx=$4 sanitizers=$5 completiond=$6 sandbox=$7
. "$source/tests/packaging/tap.sh"
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

start() {
    mkfifo "$work/ready" "$work/log"
    "$sandbox" --listen "unix:$work/upstream.sock" --ready-fd 3 3>"$work/ready" 2>"$work/sandbox.log" &
    sandbox_pid=$!
    read -r base_url <"$work/ready"
    printf '[upstream sandbox]\nbase_url = %s\nauth = none\n' "$base_url" >"$work/daemon.conf"
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

flags=
[ -z "$sanitizers" ] || flags=-fsanitize=$sanitizers

# compile OUTPUT COMPILER SOURCE PACKAGES FLAG...
compile() {
    output=$1 compiler=$2 file=$3 packages=$4
    shift 4
    # shellcheck disable=SC2046,SC2086 # flags and names are words
    "$compiler" -Wall -Wextra -Werror $flags "$@" \
        $(pkg-config --cflags libcompletion $packages) -o "$work/$output" "$file" \
        $(pkg-config --libs libcompletion $packages)
}

# An example of one prompt: what it says.
answers() {
    "$work/$1" "Once upon a time" >"$work/answer.$1" && [ "$(wc -c <"$work/answer.$1")" -gt 20 ]
}

# The lines of three calls, without what differs from call to call.
answers_many() {
    "$1" "Once upon a time" "The fox" "" >"$work/lines" || return 1
    sed 's/"id":"[^"]*",//; s/"created":[0-9]*,//' "$work/lines" | sort >"$2"
    [ "$(wc -l <"$2")" = 3 ] && grep -q '^2: {.*"text":"..*"' "$2"
}

blocking() {
    compile create "$cc" "$examples/create.c" "" -std=c99 &&
        compile stream "$cc" "$examples/stream.c" "" -std=c99 &&
        answers create && answers stream && cmp "$work/answer.create" "$work/answer.stream"
}

own_loop() {
    compile poll "$cc" "$examples/poll.c" "" -std=gnu89 -Wdeclaration-after-statement &&
        answers_many "$work/poll" "$work/expected"
}

no_daemon() {
    for example in create stream poll; do
        COMPLETIOND_SOCKET=$work/none.sock "$work/$example" "x" 2>"$work/errors" && return 1
        grep -q "completiond is not running" "$work/errors" || return 1
    done
}

# NAME PACKAGE
on_loop() {
    name=$1 package=$2
    macro=$(echo "LOOP_$name" | tr - _)
    compile "$name" "$cc" "$examples/$name.c" "$package" -std=gnu99 &&
        answers_many "$work/$name" "$work/lines.$name" && cmp "$work/lines.$name" "$work/expected" &&
        compile "life-$name" "$cc" "$source/tests/client/adapters/life.c" "$package" -std=gnu99 \
            -D"$macro" &&
        "$work/life-$name" || return 1
    # In C++ too.
    [ -z "$cxx" ] || compile none "$cxx" "$work/life.cc" "$package" -D"$macro" -fsyntax-only
}

in_cpp() {
    compile cpp "$cxx" "$examples/cpp.cc" "" -std=c++11 -pedantic-errors -Wold-style-cast &&
        compile none "$cxx" "$examples/cpp.cc" "" -std=c++20 -pedantic-errors -fsyntax-only &&
        answers cpp &&
        compile results-move "$cxx" "$source/tests/client/results_move.cc" "" -std=c++11 &&
        "$work/results-move" || return 1
    head -c "$(wc -c <"$work/answer.create")" "$work/answer.cpp" | cmp - "$work/answer.create" &&
        grep -q '^again:' "$work/answer.cpp" || return 1
    COMPLETIOND_SOCKET=$work/none.sock "$work/cpp" x 2>"$work/errors"
    [ $? = 75 ] && grep -q "completiond is not running" "$work/errors"
}

by_cmake() {
    cmake -S "$examples" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$work/prefix" \
        -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" &&
        cmake --build "$work/cmake" || return 1
    for example in $built; do
        [ -x "$work/cmake/$example" ] || { echo "$example is not built"; return 1; }
    done
    answers_many "$work/cmake/poll" "$work/lines.cmake" && cmp "$work/lines.cmake" "$work/expected"
}

if ! cmake --install "$build" --prefix "$work/prefix" >"$work/install.log" 2>&1; then
    sed 's/^/# /' "$work/install.log"
    echo "not ok 1 - installed"
    exit 1
fi
if ! start; then
    echo "not ok 1 - a daemon starts"
    exit 1
fi
# What is not in the tree can't find by chance what is not installed.
examples=$work/examples
cp -r "$source/client/examples/c" "$examples"
cp "$source/tests/client/adapters/life.c" "$work/life.cc"
PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name libcompletion.pc)")
export PKG_CONFIG_PATH
LD_LIBRARY_PATH=$(pkg-config --variable=libdir libcompletion)
export LD_LIBRARY_PATH
export COMPLETIOND_SOCKET="$work/rpc.sock"

try "examples that block" blocking
try "the example of a loop of one's own" own_loop
try "what they say without a daemon" no_daemon
built="create stream poll"
for pair in libevent:libevent_core sd-event:libsystemd glib:glib-2.0 libuv:libuv; do
    name=${pair%%:*} package=${pair#*:}
    if pkg-config --exists "$package"; then
        try "adapter and example of $name" on_loop "$name" "$package"
        built="$built $name"
    else
        skip "adapter and example of $name" "$package is missing"
    fi
done
if [ -n "$cxx" ]; then
    try "completion.hpp" in_cpp
    built="$built cpp"
else
    skip "completion.hpp" "there is no C++ compiler"
fi
try "find_package(libcompletion)" by_cmake
finish
