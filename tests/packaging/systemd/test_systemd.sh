#!/bin/sh
# The packages on a host: a real systemd, booted for this, installs them, starts the daemon at its
# first call, reloads, restarts, kills, upgrades and removes it while callers never rest.
#
#     test_systemd.sh TREE CALLERS PROBE COMPLETION-SANDBOX
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/completiond-systemd.XXXXXX")
chmod 755 "$work"
. "$here/cases.sh"

end() {
  status=$?
  trap - EXIT
  sh "$here/boot.sh" stop "$work" || :
  # Never through a mount.
  if ! grep -q " $work" /proc/mounts; then
    rm -rf --one-file-system "$work"
  fi
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ "$(id -u)" = 0 ] || { echo "skipped: only root can boot a systemd"; exit 77; }
for tool in unshare nsenter setpriv curl ip dpkg-buildpackage dh fakeroot pgrep; do
  command -v "$tool" >/dev/null || { echo "skipped: there is no $tool"; exit 77; }
done

# ---- Inside ----

key=sk-CANARY-first-0123456789
other_key=sk-CANARY-second-0123456789
prompt="Once upon a time"
text=" there was a miller who lived by the river. The miller"
drop_in=/etc/systemd/system/completiond.service.d

in_it() {
  sh "$here/boot.sh" run "$work" "$@"
}
# Lines of shell inside. not COMMAND...: which must fail; "!" would not end it.
it() {
  in_it sh -euc 'not() { if "$@"; then echo "which must not work: $*"; return 1; fi; }
'"$1"
}

is() {
  now=$(in_it systemctl show -P "$2" "$1")
  [ "$now" = "$3" ] || { echo "$1: $2 is $now, not $3"; return 1; }
}
main_pid() {
  in_it systemctl show -P MainPID completiond.service
}

# until_ SECONDS COMMAND...: waits for what will be so soon; what took too long is not so.
until_() {
  deadline=$(($(date +%s) + $1))
  shift
  until "$@" >"$work/until" 2>&1; do
    if [ "$(date +%s)" -ge "$deadline" ]; then
      cat "$work/until"
      echo "it did not come about: $*"
      return 1
    fi
    sleep 0.05
  done
}

# One call as a user; the text of the answer must be all of it.
call_as() {
  in_it setpriv --reuid "$1" --regid "$1" --init-groups -- completionctl create --timeout 30s \
    --model gpt-3.5-turbo-instruct --prompt "$prompt" --temperature 0 --max-tokens 12 \
    --output text >"$work/answer"
  [ "$(cat "$work/answer")" = "$text" ] || { echo "the answer is: $(cat "$work/answer")"; return 1; }
}
# A call that must fail, and what it must say of it.
call_fails_as() {
  if call_as "$1" 2>"$work/error"; then
    echo "the call of $1 was answered"
    return 1
  fi
  grep -q "$2" "$work/error" || { cat "$work/error"; return 1; }
}

configure() {
  cat >"$work/test.conf"
  it "cp /host/test.conf /etc/completiond/completiond.conf.d/test.conf"
}
configure_key_file() {
  configure <<END
[daemon]
drain_timeout = 20s
[upstream sandbox]
base_url = http://localhost:18080/v1
credential_file = /etc/completiond/test.key
END
}
set_key_file() {
  it "install -o completiond -m 600 /dev/null /etc/completiond/test.key
      echo $1 >/etc/completiond/test.key"
}

# The upstream, as another service of the host. run_upstream KEY [TOKENS-PER-SECOND]
run_upstream() {
  in_it systemctl stop upstream.service 2>/dev/null || :
  in_it systemd-run --quiet --collect --unit=upstream --service-type=exec -- \
    /host/completion-sandbox --listen 127.0.0.1:18080 --api-key "$1" \
    --tokens-per-second "${2:-0}" 2>"$work/said.upstream" || { cat "$work/said.upstream"; return 1; }
  until_ 20 it "curl -sf http://127.0.0.1:18080/health"
}

# ---- Callers who never rest ----

start_load() {
  setsid sh "$here/boot.sh" run "$work" env LD_LIBRARY_PATH=/host \
    /host/callers /run/completiond/rpc.sock /host/progress 6 \
    >"$work/counts" 2>"$work/failures" &
  load=$!
  until_ 30 answered 20
}
progress() {
  tr -d '\0' <"$work/progress" | head -n 1
}
answered() {
  [ "$(progress)" -ge "$1" ]
}
# So many more calls have been answered.
await_answers() {
  until_ 60 answered $(($(progress) + $1))
}
end_load() {
  in_it pkill -TERM -x callers
  load_status=0
  wait "$load" || load_status=$?
  echo "figure: $1: $(cat "$work/counts")"
  if [ "$load_status" != 0 ]; then
    sort "$work/failures" | uniq -c | head -n 20
    return 1
  fi
  grep -q 'refused=0 wrong=0 late=0' "$work/counts"
}

# ---- Cases, in the order of a package's life ----

installed_socket_listens_and_no_service_runs() {
  it "dpkg -i /host/libcompletion0_*.deb /host/completionctl_*.deb /host/completiond_*.deb" \
    >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; return 1; }
  is completiond.socket ActiveState active
  is completiond-metrics.socket ActiveState active
  is completiond-openai.socket ActiveState inactive
  is completiond-openai.socket UnitFileState disabled
  is completiond.socket UnitFileState enabled
  is completiond.service ActiveState inactive
  [ "$(it "stat -c '%a %U:%G' /run/completiond/rpc.sock")" = "660 root:completiond" ]
  [ "$(it "stat -c '%a %U:%G' /run/completiond")" = "755 root:root" ]
  it "getent passwd completiond"
}

# The key comes by LoadCredential=, and the upstream is asked by a name that is looked up.
first_call_starts_the_service() {
  run_upstream "$key"
  it "useradd -M outsider; useradd -M -G completiond alice; useradd -M -G completiond bob
      mkdir -p /home/alice $drop_in
      install -m 600 /dev/null /etc/completiond/openai.key
      echo $key >/etc/completiond/openai.key
      echo '[Service]' >$drop_in/key.conf
      echo LoadCredential=openai.key:/etc/completiond/openai.key >>$drop_in/key.conf
      systemctl daemon-reload"
  configure <<END
[upstream sandbox]
base_url = http://localhost:18080/v1
credential = openai.key
END
  call_as root
  is completiond.service ActiveState active
  is completiond.service StatusText Serving
  [ "$(it "ps -o user= -p $(main_pid)")" = completi+ ] ||
    [ "$(it "ps -o user= -p $(main_pid)")" = completiond ]
}

who_is_outside_the_group_is_refused() {
  call_as alice
  call_fails_as outsider 'Permission denied'
}

# With PrivateUsers=yes both would be the user 65534.
policies_know_the_caller_s_uid() {
  configure <<END
[upstream sandbox]
base_url = http://localhost:18080/v1
credential = openai.key
[policy *]
models = nothing
[policy user:alice]
models = *
END
  in_it systemctl reload completiond.service
  call_as alice
  call_fails_as bob NOT_ALLOWED
}

# http USER: the answer's text, over the other socket, or what curl says.
http() {
  in_it setpriv --reuid "$1" --regid "$1" --init-groups -- curl -sS --max-time 30 \
    --unix-socket /run/completiond/openai.sock http://localhost/v1/completions --json \
    "{\"model\":\"gpt-3.5-turbo-instruct\",\"prompt\":\"$prompt\",\"temperature\":0,\"max_tokens\":12}"
}

# It can't be added to a service that runs.
http_has_a_socket_of_its_own() {
  in_it systemctl stop completiond.service
  in_it systemctl enable --now completiond-openai.socket
  http alice | grep -qF "\"text\":\"$text\""
  http bob | grep -q '"reason":"NOT_ALLOWED"'
  if http outsider; then
    echo "an outsider was let in"
    return 1
  fi
  call_as alice
  in_it systemctl restart completiond.service
  http alice | grep -qF "\"text\":\"$text\""
}

reload_takes_a_new_key_and_waits_for_it() {
  configure_key_file
  set_key_file "$key"
  in_it systemctl reload completiond.service
  call_as alice
  before=$(main_pid)
  for round in 1 2 3; do
    run_upstream "$other_key"
    call_fails_as alice UPSTREAM_AUTH
    set_key_file "$other_key"
    in_it systemctl reload completiond.service
    call_as alice
    run_upstream "$key"
    set_key_file "$key"
    in_it systemctl reload completiond.service
    call_as alice
  done
  is completiond.service ActiveState active
  [ "$(it "systemctl show -P NRestarts completiond.service")" = 0 ]
  echo "main process before: $before, after: $(main_pid)"
}

reload_of_what_is_wrong_fails_and_changes_nothing() {
  set_key_file ""
  if in_it systemctl reload completiond.service; then
    echo "an empty key was taken"
    return 1
  fi
  call_as alice
  set_key_file "$key"
  it "echo nonsense = 1 >>/etc/completiond/completiond.conf.d/test.conf"
  if in_it systemctl reload completiond.service; then
    echo "nonsense was taken"
    return 1
  fi
  it "journalctl -u completiond | grep -q 'test.conf:6: '"
  is completiond.service ActiveState active
  call_as alice
  # Also where the check did not come first.
  before=$(main_pid)
  in_it systemctl kill -s HUP --kill-whom=main completiond.service
  until_ 20 it "systemctl show -P StatusText completiond.service | grep -q 'last reload failed'"
  call_as alice
  [ "$(main_pid)" = "$before" ]
  configure_key_file
  in_it systemctl reload completiond.service
}

restarts_refuse_nobody() {
  start_load
  for round in 1 2 3 4 5 6 7 8; do
    in_it systemctl restart completiond.service
    await_answers 20
  done
  end_load "8 restarts"
}

reloads_refuse_nobody() {
  start_load
  for round in 1 2 3 4 5 6 7 8; do
    in_it systemctl reload completiond.service
    await_answers 20
  done
  end_load "8 reloads"
  # Calls in flight do not notice.
  grep -q ' cut=0 \|^ok=[0-9]* cut=0' "$work/counts"
}

kills_refuse_nobody() {
  start_load
  for round in 1 2 3 4 5 6 7 8; do
    in_it systemctl kill -s KILL --kill-whom=main completiond.service
    await_answers 20
  done
  end_load "8 kills"
  is completiond.socket ActiveState active
}

hanging_daemon_is_replaced() {
  it "printf '[Service]\nWatchdogSec=2s\n' >$drop_in/watchdog.conf; systemctl daemon-reload
      systemctl restart completiond.service"
  before=$(main_pid)
  in_it kill -STOP "$before"
  start=$(date +%s%3N)
  # This caller waits until there is another.
  call_as alice
  took=$(($(date +%s%3N) - start))
  echo "figure: answered $took ms after the daemon was stopped, WatchdogSec=2s"
  [ "$(main_pid)" != "$before" ]
  is completiond.service ActiveState active
  it "journalctl -u completiond | grep -q 'Watchdog timeout'"
  it "rm $drop_in/watchdog.conf; systemctl daemon-reload"
}

begun() {
  [ -s "$work/stream" ]
}
start_stream() {
  : >"$work/stream"
  in_it setpriv --reuid alice --regid alice --init-groups -- completionctl create --stream \
    --output text --model gpt-3.5-turbo-instruct --prompt "$prompt" --temperature 0 \
    --max-tokens 12 >"$work/stream" 2>"$work/stream.error" &
  stream=$!
  until_ 20 begun
}

# Even where the unit's TimeoutStopSec= is shorter than drain_timeout.
stop_waits_for_calls_in_flight() {
  run_upstream "$key" 4
  it "printf '[Service]\nTimeoutStopSec=1s\n' >$drop_in/stop.conf; systemctl daemon-reload"
  in_it systemctl restart completiond.service
  start_stream
  it "systemctl stop completiond.service 2>&1"
  wait "$stream" || { cat "$work/stream.error"; return 1; }
  [ "$(cat "$work/stream")" = "$text" ]
  is completiond.service Result success
  is completiond.socket ActiveState active
  it "rm $drop_in/stop.conf; systemctl daemon-reload"
  run_upstream "$key"
  call_as alice
}

idle_exit_leaves_the_socket() {
  configure_key_file
  it "sed -i 's/^drain_timeout.*/&\nidle_exit = 1s/' /etc/completiond/completiond.conf.d/test.conf"
  in_it systemctl reload completiond.service
  until_ 30 is completiond.service ActiveState inactive
  is completiond.service Result success
  call_as alice
  is completiond.service ActiveState active
  configure_key_file
  in_it systemctl reload completiond.service
}

broken_configuration_at_start_refuses_nobody() {
  it "systemctl stop completiond.service 2>&1
      echo nonsense = 1 >>/etc/completiond/completiond.conf.d/test.conf"
  call_as alice >"$work/waiting" 2>&1 &
  waiting=$!
  # More often than the default limit of starts allows.
  until_ 30 it '[ "$(systemctl show -P NRestarts completiond.service)" -ge 8 ]'
  is completiond.socket ActiveState active
  configure_key_file
  wait "$waiting" || { cat "$work/waiting"; return 1; }
}

upgrade_under_load_refuses_nobody() {
  before=$(main_pid)
  start_load
  it "dpkg -i /host/next/completiond_*.deb" >"$work/dpkg" 2>&1 || { cat "$work/dpkg"; return 1; }
  await_answers 50
  end_load "upgrade"
  is completiond.service Description "Text completions for this host, and newer"
  [ "$(main_pid)" != "$before" ]
  it "[ \"\$(readlink /proc/$(main_pid)/exe)\" = /usr/sbin/completiond ]"
  it "dpkg-query -W completiond | grep -q 0.1.0+next"
}

sandbox_holds() {
  it "printf '[Service]\nExecPaths=/host\nExecStartPre=/host/probe\n' >$drop_in/probe.conf
      systemctl daemon-reload"
  failed=0
  in_it systemctl restart completiond.service || failed=1
  it "journalctl -o cat -u completiond | grep -E '^(right|WRONG): '" >"$work/probe.log"
  it "rm $drop_in/probe.conf; systemctl daemon-reload; systemctl restart completiond.service"
  none ^WRONG "$work/probe.log"
  [ "$failed" = 0 ]
  echo "figure: $(grep -c ^right "$work/probe.log") things tried from inside of the sandbox"
  [ "$(grep -c ^right "$work/probe.log")" -gt 50 ]
}

# By another service, with a core dump of its own allowed: the key and what is asked and answered.
journal_has_fields_and_no_secrets() {
  it "journalctl -o json --output-fields=PRIORITY,SYSLOG_IDENTIFIER,MESSAGE,_SYSTEMD_UNIT,_COMM \
      -u completiond SYSLOG_IDENTIFIER=completiond" >"$work/journal.json"
  grep -q '"PRIORITY":"6"' "$work/journal.json"
  grep -q '"PRIORITY":"3"' "$work/journal.json"
  it "journalctl -o export --no-pager" >"$work/journal"
  grep -q 'configuration read again' "$work/journal"
  # The upstream's own command line is this test's.
  grep -a -v 'completion-sandbox' "$work/journal" >"$work/journal.ours"
  none -a -e CANARY -e "Once upon" -e miller "$work/journal.ours"
}

# No other user of the host sees the key, nor who it asks, in /proc or in the credentials' folder.
key_is_hidden_from_users() {
  call_as alice
  as_alice="setpriv --reuid alice --regid alice --init-groups"
  it "[ -s /run/credentials/completiond.service/openai.key ]
      not $as_alice cat /proc/$(main_pid)/environ
      not $as_alice ls /run/credentials/completiond.service
      not $as_alice cat /etc/completiond/openai.key
      not grep -a CANARY /proc/$(main_pid)/environ /proc/$(main_pid)/cmdline"
}

# A service manager of alice's own, with a daemon and a key of her own.
user_has_a_daemon_of_her_own() {
  it "systemctl start systemd-logind && loginctl enable-linger alice" >"$work/logind" 2>&1 ||
    { echo "there is no systemd-logind that works here"; exit 77; }
  id=$(in_it id -u alice)
  until_ 30 it "[ -S /run/user/$id/systemd/private ]"
  it "install -d -o alice /home/alice/.config /home/alice/.config/completiond
      install -o alice -m 600 /dev/null /home/alice/.config/completiond/key
      echo $key >/home/alice/.config/completiond/key
      cat >/home/alice/.config/completiond/completiond.conf" <<END
[upstream sandbox]
base_url = http://localhost:18080/v1
credential_file = /home/alice/.config/completiond/key
END
  as_alice="setpriv --reuid alice --regid alice --init-groups env HOME=/home/alice \
    XDG_RUNTIME_DIR=/run/user/$id"
  it "$as_alice systemctl --user start completiond.socket"
  [ "$(it "stat -c '%a %U' /run/user/$id/completiond/rpc.sock")" = "600 alice" ]
  [ "$(it "$as_alice completionctl create --model gpt-3.5-turbo-instruct --prompt '$prompt' \
    --temperature 0 --max-tokens 12 --output text")" = "$text" ]
  it "$as_alice systemctl --user is-active completiond.service
      $as_alice systemctl --user reload completiond.service
      echo nonsense >>/home/alice/.config/completiond/completiond.conf
      not $as_alice systemctl --user reload completiond.service
      $as_alice systemctl --user is-active completiond.service
      journalctl --no-pager >/tmp/journal
      not grep 'reception only permitted' /tmp/journal
      loginctl disable-linger alice"
}

purge_leaves_nothing() {
  it "rm -r $drop_in
      dpkg -P completiond completionctl libcompletion0" >"$work/dpkg" 2>&1 ||
    { cat "$work/dpkg"; return 1; }
  none -i warning "$work/dpkg"
  in_it systemctl daemon-reload
  it "systemctl list-units --all --no-legend 'completiond*' | grep . && exit 1
      systemctl list-unit-files --no-legend 'completiond*' | grep . && exit 1
      not getent passwd completiond
      not getent group completiond
      ls -d /etc/completiond /run/completiond /usr/sbin/completiond 2>/dev/null && exit 1
      find /etc /run /usr /var /lib/systemd -xdev -name '*completiond*' -newer /etc/machine-id \
        -not -path '/run/udev/*' 2>/dev/null || :" >"$work/left" || { cat "$work/left"; return 1; }
  none . "$work/left"
}

# ---- All of it ----

booted=0
sh "$here/boot.sh" start "$work" >"$work/boot" 2>&1 || booted=$?
if [ "$booted" = 77 ]; then
  cat "$work/boot"
  exit 77
fi
[ "$booted" = 0 ] || { cat "$work/boot"; exit 1; }

prepare() {
  sh "$tree/packaging/build-deb.sh" --if-changed --no-install
  cp "$tree"/build/deb/*.deb "$work/"
  cp "$1" "$work/callers"
  cp "$2" "$work/probe"
  cp "$3" "$work/completion-sandbox"
  # What callers are linked with; "" if it is installed.
  library=$(ldd "$1" | sed -n 's/.*libcompletion.so.0 => \(\/[^ ]*\).*/\1/p')
  cp "$library" "$work/libcompletion.so.0"
  # A newer package, which its unit shows.
  mkdir "$work/next"
  dpkg-deb -R "$(echo "$work"/completiond_*.deb)" "$work/next/root"
  sed -i 's/^Version: .*/Version: 0.1.0+next/' "$work/next/root/DEBIAN/control"
  sed -i 's/^Description=.*/&, and newer/' "$work"/next/root/*/systemd/system/completiond.service
  dpkg-deb --root-owner-group -b "$work/next/root" "$work/next/completiond_0.1.0+next.deb"
}

# As try; what fails shows the journal's end.
attempt() {
  before_failed=$n_failed
  try "$@"
  [ "$n_failed" = "$before_failed" ] ||
    in_it journalctl --no-pager -n 30 | sed 's/^/# /'
}

try "the packages are built" prepare "$2" "$3" "$4"
[ "$n_failed" = 0 ] || finish
try "installed, the socket listens and no service runs" installed_socket_listens_and_no_service_runs
[ "$n_failed" = 0 ] || finish
attempt "the first call starts the service and is answered" first_call_starts_the_service
attempt "who is outside the group is refused" who_is_outside_the_group_is_refused
attempt "policies know the caller's uid" policies_know_the_caller_s_uid
attempt "HTTP has a socket of its own" http_has_a_socket_of_its_own
attempt "reload takes a new key, and waits for it" reload_takes_a_new_key_and_waits_for_it
attempt "reload of what is wrong fails and changes nothing" \
  reload_of_what_is_wrong_fails_and_changes_nothing
attempt "restarts refuse nobody" restarts_refuse_nobody
attempt "reloads refuse nobody and cut nothing" reloads_refuse_nobody
attempt "kills refuse nobody" kills_refuse_nobody
attempt "a daemon that hangs is replaced" hanging_daemon_is_replaced
attempt "stop waits for calls in flight" stop_waits_for_calls_in_flight
attempt "idle_exit leaves the socket" idle_exit_leaves_the_socket
attempt "a broken configuration at start refuses nobody" broken_configuration_at_start_refuses_nobody
attempt "an upgrade under load refuses nobody" upgrade_under_load_refuses_nobody
attempt "the sandbox holds" sandbox_holds
attempt "a user has a daemon of her own" user_has_a_daemon_of_her_own
attempt "the journal has fields and no secrets" journal_has_fields_and_no_secrets
attempt "the key is hidden from users" key_is_hidden_from_users
attempt "purge leaves nothing" purge_leaves_nothing
finish
