# The peers of the benchmarks: how each is started, where it listens, which client speaks to it.
# Sourced by run.sh, which sets source, build, dir, port (the upstream's) and base_url.
# shellcheck shell=sh disable=SC2034,SC2154 # variables of run.sh's

# What is known, in the order of the tables. completiond_bare is completiond whose caller does without
# libcompletion; it is measured when asked for.
known_peers='direct nginx haproxy grpc_cpp completiond completiond_bare floor'
all_peers='direct nginx haproxy grpc_cpp completiond floor'

# Why a peer cannot be measured; nothing if it can.
peer_lacks() { # PEER
    case $1 in
    direct) need="$build/tests/bench/bench_direct" ;;
    nginx | haproxy) need=$(sbin "$1" || echo "$1") ;;
    grpc_cpp) need="$build/tests/bench/bench_grpc_server" ;;
    completiond | completiond_bare) need="$build/daemon/completiond" ;;
    floor) need="$build/tests/bench/bench_relay" ;;
    *) echo "no such peer" && return ;;
    esac
    [ -x "$need" ] || echo "there is no $need"
}

configure_nginx() {
    # A process of its own for the work, as distributions have it, and a line for each call.
    cat >"$dir/nginx.conf" <<END
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid $dir/nginx.pid;
error_log $dir/nginx.error warn;
$([ "$(id -u)" != 0 ] || echo "user root root;")
events { worker_connections 16384; }
http {
    access_log $dir/nginx.access combined buffer=64k flush=5s;
    client_body_temp_path $dir/nginx.body;
    proxy_temp_path $dir/nginx.proxy;
    fastcgi_temp_path $dir/nginx.fastcgi;
    scgi_temp_path $dir/nginx.scgi;
    uwsgi_temp_path $dir/nginx.uwsgi;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    upstream bench {
        server 127.0.0.1:$port;
        keepalive 4096;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }
    server {
        listen unix:$dir/nginx.sock backlog=4096;
        location / {
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # Streams must not wait; and what comes at once is read at once.
            proxy_buffering off;
            proxy_buffer_size 16k;
            proxy_busy_buffers_size 16k;
            proxy_read_timeout 10m;
        }
    }
}
END
}

configure_haproxy() {
    cat >"$dir/haproxy.cfg" <<END
global
    nbthread 1
    maxconn 9000
    log stdout format raw local0 info
defaults
    mode http
    log global
    option httplog
    option http-no-delay
    timeout connect 5s
    timeout client 1h
    timeout server 10m
    timeout http-keep-alive 1h
frontend callers
    bind unix@$dir/haproxy.sock backlog 4096
    default_backend bench
backend bench
    http-reuse always
    server bench 127.0.0.1:$port pool-purge-delay 1h
END
    sed 's/bind unix@[^ ]*/bind fd@3/' "$dir/haproxy.cfg" >"$dir/haproxy.cfg.activated"
}

configure_completiond() {
    cat >"$dir/completiond.conf" <<END
[daemon]
memory_max = 4G
${n_workers:+workers = $n_workers}

# Never answers: what waits for it waits in the queue.
[upstream stuck]
models = stuck
base_url = $base_url
auth = none
max_concurrent = 1
max_queued = 20000

[upstream bench]
base_url = $base_url
auth = none
max_concurrent = 20000

[policy *]
max_concurrent = 20000
max_queued = 20000
max_memory = 4G
END
}

peer_configure() { # PEER
    case $1 in
    nginx | haproxy) "configure_$1" ;;
    completiond*) configure_completiond ;;
    esac
}

# What starts the peer, as the shell's line; "activated": with a socket from systemd.
peer_command() { # PEER [activated]
    case $1 in
    nginx) echo "exec $(sbin nginx) -c $dir/nginx.conf -e $dir/nginx.error -p $dir" ;;
    haproxy) echo "exec $(sbin haproxy) -q -db -f $dir/haproxy.cfg${2:+.$2} >>$dir/haproxy.access" ;;
    grpc_cpp)
        echo "exec $build/tests/bench/bench_grpc_server $dir/grpc_cpp.sock $base_url >>$dir/grpc_cpp.log"
        ;;
    completiond*)
        # The file stands for the journal: a record for each call, with all fields.
        echo "exec $build/daemon/completiond --config $dir/completiond.conf --log-format json" \
            "--listen $dir/$1.sock --metrics-listen $dir/$1-metrics.sock" \
            "2>>$dir/$1.records"
        ;;
    floor) echo "exec $build/tests/bench/bench_relay $dir/floor.sock $port" ;;
    esac
}

# A variable that makes the peer take the socket of systemd; nothing if it can't.
peer_activation() { # PEER
    case $1 in
    nginx) echo 'NGINX=3:;' ;;
    haproxy | completiond) echo BENCH=1 ;;
    esac
}

sbin() { # PROGRAM
    PATH=$PATH:/usr/sbin command -v "$1"
}

# Starts the peer and waits until it listens at $dir/PEER.sock. Its processes: $pids_PEER.
peer_start() { # PEER
    [ "$1" != direct ] || return 0
    rm -f "$dir/$1.sock"
    peer_configure "$1"
    sh -c "$(peer_command "$1")" &
    started=$!
    runs "$started"
    until [ -S "$dir/$1.sock" ]; do
        kill -0 "$started" 2>/dev/null || return 1
        sleep 0.02
    done
    # nginx's worker is forked when it listens.
    while [ "$1" = nginx ] && [ -z "$(peer_children "$started")" ]; do sleep 0.02; done
    eval "pids_$1='$started $(peer_children "$started")'"
}

peer_children() { # PID
    cat "/proc/$1/task/$1/children"
}

peer_pids() { # PEER
    eval "echo \${pids_$1:-}"
}

# Ends what peer_start started.
peer_stop() { # PEER
    [ "$1" != direct ] || return 0
    # shellcheck disable=SC2046 # a list of words
    set -- "$1" $(peer_pids "$1")
    end "$2"
    eval "pids_$1="
}

# Makes the command of the peer's client, in $client, with all its processes named.
peer_client() { # PEER
    case $1 in
    direct) client="$build/tests/bench/bench_direct --target $base_url" ;;
    nginx | haproxy)
        client="$build/tests/bench/bench_direct --target http://localhost/v1"
        client="$client --socket $dir/$1.sock"
        ;;
    completiond)
        client="$build/tests/bench/${caller_of_completiond:-bench_library} --target $dir/$1.sock"
        ;;
    completiond_bare) client="$build/tests/bench/bench_client --target $dir/$1.sock" ;;
    grpc_cpp) client="$build/tests/bench/bench_grpc_client --target $dir/grpc_cpp.sock" ;;
    floor) client="$build/tests/bench/bench_floor --target $dir/floor.sock" ;;
    esac
    for pid in $(peer_pids "$1"); do client="$client --daemon $pid"; done
}
