/* completionctl status and top: what they show, as text, as JSON and on a terminal. */
#include <json-c/json.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"
#include "peer.h"
#include "scene.h"

#define SCREEN_ENTER "\033[?1049h"
#define SCREEN_LEAVE "\033[?1049l"

enum { NOBODY = 65534 };

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool bad = strstr(c->body, "\"bad\"");
        if (!fake_answer(c, bad ? 500 : 200, "application/json", "",
                         bad ? "{\"error\":{\"message\":\"CANARY\"}}" : FAKE_LAST("a")))
            return;
    }
}

static void call(struct scene *s, const char *model)
{
    rpc_request request = rpc_request_new(model, "CANARY");
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_result_done(&result);
}

/* ---- status ---- */

static void test_status_tells_what_happened(void **state)
{
    struct scene *s = *state;
    struct cli c;
    char pid[64];

    scene_start(s, serve, NULL, "[policy *]\nrequests_per_minute = 1000");
    for (int i = 0; i < 3; i++)
        call(s, "m");
    call(s, "bad");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("status"));
    snprintf(pid, sizeof pid, "process %d", s->daemon.pid);
    cli_assert_has(cli_text(&c), "completiond is serving on ");
    cli_assert_has(cli_text(&c), pid);
    cli_assert_has(cli_text(&c), "configuration read 2");
    cli_assert_has(cli_text(&c), "connections: 2, ");
    cli_assert_has(cli_text(&c), "UPSTREAM");
    cli_assert_has(cli_text(&c), fake_base_url(s->fake));
    cli_assert_has(cli_text(&c), "MEMORY LIMIT");
    cli_assert_has(cli_text(&c), "128.0 MiB");
    cli_assert_lacks(cli_text(&c), "CANARY");
    assert_string_equal(cli_errors(&c), "");

    /* The columns: name, state, base URL, running, queued, ok, failed. */
    char url[128];
    int running, queued, ok, failed;
    const char *row = strstr(cli_text(&c), "\nfake ");
    assert_non_null(row);
    assert_int_equal(
        sscanf(row, " fake ok %127s %d %d %d %d", url, &running, &queued, &ok, &failed), 5);
    assert_int_equal(running, 0);
    assert_int_equal(queued, 0);
    assert_int_equal(ok, 3);
    assert_int_equal(failed, 1);
    cli_done(&c);
    scene_stop(s);
}

static void test_endpoints_have_rows_where_there_are_several(void **state)
{
    struct scene *s = *state;
    struct cli c;
    char settings[256], row[128];

    /* Nobody listens on port 1. */
    scene_start(s, serve, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("status"));
    cli_assert_lacks(cli_text(&c), "ENDPOINT");
    cli_done(&c);
    snprintf(settings, sizeof settings, "[upstream u]\nbase_url = %s http://127.0.0.1:1/v1\n",
             fake_base_url(s->fake));
    daemon_configure(&s->daemon, settings);
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "READY=1");
    for (int i = 0; i < 200; i++)
        call(s, "m");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("status"));
    snprintf(row, sizeof row, " %s +1 ", fake_base_url(s->fake));
    cli_assert_has(cli_text(&c), row);
    int running, attempts, faults;
    const char *at = strstr(cli_text(&c), "\n127.0.0.1:1 ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, " 127.0.0.1:1 u resting %d %d %d", &running, &attempts, &faults),
                     3);
    assert_int_equal(running, 0);
    assert_true(faults > 0);
    assert_int_equal(attempts, faults);
    cli_done(&c);
    scene_stop(s);
}

static void test_rows_are_aligned(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL,
                "[upstream a-name-that-is-much-longer]\nbase_url = http://127.0.0.1:1/v1\n"
                "auth = none\n");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("status"));
    const char *header = strstr(cli_text(&c), "\nUPSTREAM");
    const char *rows[] = {strstr(cli_text(&c), "\nfake "),
                          strstr(cli_text(&c), "\na-name-that-is-much-longer ")};
    assert_non_null(header);
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(rows[i]);
        assert_int_equal(strcspn(rows[i] + 1, "\n"), strcspn(header + 1, "\n"));
    }
    cli_done(&c);
    scene_stop(s);
}

static json_object *member(json_object *object, const char *name)
{
    json_object *value;

    if (!json_object_object_get_ex(object, name, &value))
        fail_msg("%s is missing in %s", name, json_object_to_json_string(object));
    return value;
}

static void test_json_has_the_schemas_names(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, NULL);
    call(s, "m");
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("status", "--json"));
    json_object *status = json_tokener_parse(cli_text(&c));
    assert_non_null(status);
    assert_int_equal(json_object_get_int64(member(status, "pid")), s->daemon.pid);
    assert_false(json_object_get_boolean(member(status, "draining")));
    json_object *u = json_object_array_get_idx(member(status, "upstreams"), 0);
    assert_string_equal(json_object_get_string(member(u, "name")), "fake");
    assert_string_equal(json_object_get_string(member(u, "state")), "UPSTREAM_STATE_OK");
    json_object *calls = json_object_array_get_idx(member(u, "calls"), 0);
    assert_int_equal(json_object_get_int(member(calls, "status")), 0);
    assert_int_equal(json_object_get_int(member(calls, "n")), 1);
    assert_true(json_object_get_double(member(u, "reuse_ratio")) == 0);
    json_object *user = json_object_array_get_idx(member(status, "users"), 0);
    assert_int_equal(json_object_get_int64(member(user, "uid")), geteuid());
    assert_int_equal(json_object_get_int(member(user, "connections")), 2);
    assert_false(json_object_object_get_ex(user, "tokens_left", NULL));
    json_object_put(status);
    /* One line. */
    assert_string_equal(strchr(cli_text(&c), '\n'), "\n");
    cli_done(&c);
    scene_stop(s);
}

static void test_others_see_only_themselves(void **state)
{
    struct cli_options nobody = {.uid = NOBODY};
    struct scene *s = *state;
    struct cli c;

    if (geteuid() != 0) {
        print_message("skipped: only root can run the command as somebody else\n");
        skip();
    }
    scene_start(s, serve, NULL, NULL);
    assert_int_equal(chmod(s->daemon.directory.path, 0711), 0);
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    cli_start(&c, s->daemon.socket, &nobody, CLI_ARGUMENTS("status", "--json"));
    if (cli_wait(&c) == 127) {
        print_message("skipped: others may not run what was built\n");
    } else {
        json_object *status = json_tokener_parse(cli_text(&c));
        json_object *users = member(status, "users");
        assert_int_equal(json_object_array_length(users), 1);
        assert_int_equal(json_object_get_int64(member(json_object_array_get_idx(users, 0), "uid")),
                         NOBODY);
        json_object_put(status);
    }
    cli_done(&c);
    scene_stop(s);
}

/* ---- An older daemon ---- */

/* Knows of health and of nothing else. */
static void serve_health(struct fake_connection *c)
{
    static const uint8_t serving[] = {8, 1};
    uint32_t stream;

    if (!peer_greet(c))
        return;
    for (unsigned n = 0; (stream = peer_read_call(c)) > 0; n++) {
        bool ok;
        if (n % 2 == 0)
            ok = peer_begin(c, stream) &&
                 peer_end(c, stream, "12", "unknown service completion.v1.Status", NULL);
        else
            ok = peer_begin(c, stream) && peer_message(c, stream, serving, sizeof serving) &&
                 peer_end(c, stream, "0", NULL, NULL);
        if (!ok)
            return;
    }
}

static void test_an_older_daemon_tells_its_health(void **state)
{
    struct directory directory;
    struct cli c;

    (void)state;
    directory_init(&directory);
    const char *path = directory_path(&directory, "old.sock");
    struct fake *fake = fake_new(path, serve_health, NULL);
    cli_run(&c, 0, path, NULL, CLI_ARGUMENTS("status"));
    cli_assert_has(cli_text(&c), "completiond is serving on ");
    assert_string_equal(strchr(cli_text(&c), '\n'), "\n");
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
    cli_run(&c, 0, path, NULL, CLI_ARGUMENTS("status", "--json"));
    assert_string_equal(cli_text(&c), "{\"draining\":false}\n");
    cli_done(&c);
    cli_run(&c, 0, path, NULL, CLI_ARGUMENTS("top", "--interval", "10ms", "--count", "2"));
    cli_assert_has(cli_text(&c), "completiond is serving on ");
    cli_done(&c);
    fake_free(fake);
    directory_done(&directory);
}

/* ---- top ---- */

static unsigned count_of(const char *text, const char *part)
{
    unsigned n = 0;

    for (; (text = strstr(text, part)); text += strlen(part))
        n++;
    return n;
}

static void test_top_writes_one_report_after_the_other(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, NULL,
            CLI_ARGUMENTS("top", "--interval", "20ms", "--count", "3"));
    assert_int_equal(count_of(cli_text(&c), "completiond is serving on "), 3);
    assert_int_equal(count_of(cli_text(&c), "\nfake "), 3);
    cli_assert_lacks(cli_text(&c), "\033");
    cli_done(&c);

    /* Without an end, until it is told. */
    cli_start(&c, s->daemon.socket, NULL, CLI_ARGUMENTS("top", "--interval", "10ms"));
    cli_await_text(&c, "CALLS/S");
    call(s, "m");
    cli_signal(&c, SIGINT);
    cli_wait_exit(&c, 0);
    cli_done(&c);
    scene_stop(s);
}

static void test_top_ends_when_nobody_is_there(void **state)
{
    struct scene *s = *state;
    struct cli c;

    cli_run(&c, 3, s->daemon.socket, NULL, CLI_ARGUMENTS("top"));
    cli_assert_has(cli_errors(&c), "completiond is not running");
    cli_done(&c);
}

static void test_top_gives_the_terminal_back(void **state)
{
    static const struct cli_options terminal = {.out_is_terminal = true, .err_is_terminal = true};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &terminal, CLI_ARGUMENTS("top", "--interval", "10ms"));
    cli_await_text(&c, SCREEN_ENTER);
    cli_await_text(&c, "\033[J\033[H");
    cli_signal(&c, SIGINT);
    cli_wait_exit(&c, 0);
    cli_assert_has(cli_text(&c), "\033[?25h" SCREEN_LEAVE);
    cli_done(&c);

    /* An error stands on the screen that there was before. */
    cli_start(&c, s->daemon.socket, &terminal, CLI_ARGUMENTS("top", "--interval", "10ms"));
    cli_await_text(&c, "\033[J\033[H");
    daemon_signal(&s->daemon, SIGTERM);
    daemon_wait_exit(&s->daemon, 0);
    int status = cli_wait(&c);
    assert_true(status == 3 || status == 5);
    cli_assert_has(cli_text(&c), SCREEN_LEAVE);
    if (status == 3)
        cli_assert_has(strstr(cli_text(&c), SCREEN_LEAVE), "completionctl: UNAVAILABLE");
    cli_done(&c);
}

/* Reads from the terminal until the text has come, at most; false: the other side has closed. */
static bool read_until(int fd, char *text, size_t size, const char *part)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    size_t n = strlen(text);

    while (!part || !strstr(text, part)) {
        if (poll(&pfd, 1, HARNESS_TIMEOUT_MS) < 1)
            fail_msg("nothing comes behind: %s", text);
        if (n > size / 2)
            memmove(text, text + n / 2, n - n / 2 + 1), n -= n / 2;
        ssize_t got = read(fd, text + n, size - 1 - n);
        if (got <= 0)
            return false;
        n += (size_t)got;
        text[n] = '\0';
    }
    return true;
}

static void test_q_ends_top(void **state)
{
    struct scene *s = *state;
    char text[65536] = "";
    int fd, status;

    scene_start(s, serve, NULL, NULL);
    pid_t pid = forkpty(&fd, NULL, NULL, NULL);
    assert_true(pid >= 0);
    if (pid == 0) {
        execl(COMPLETIONCTL_BINARY, COMPLETIONCTL_BINARY, "top", "--interval", "10s", "--socket",
              s->daemon.socket, NULL);
        _exit(127);
    }
    assert_true(read_until(fd, text, sizeof text, "\033[J"));
    assert_int_equal(write(fd, "xq", 2), 2);
    read_until(fd, text, sizeof text, NULL);
    assert_non_null(strstr(text, SCREEN_LEAVE));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fd);
    scene_stop(s);
}

static void test_wrong_options_are_told(void **state)
{
    static const struct {
        const char *option, *value, *said;
    } cases[] = {
        {"--interval", "x", "--interval: write 1s"},
        {"--interval", "1ms", "--interval: write 1s"},
        {"--count", "0", "--count: a number above 0"},
        {"--count", "3x", "--count: a number above 0"},
        {"--socket", "", "--socket: a path is wanted"},
        {"now", "", "unexpected argument 'now'"},
    };
    struct cli c;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cli_run(&c, 2, NULL, NULL, CLI_ARGUMENTS("top", cases[i].option, cases[i].value));
        cli_assert_has(cli_errors(&c), cases[i].said);
        cli_assert_has(cli_errors(&c), "'completionctl top --help'");
        cli_done(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_status_tells_what_happened),
        scene_test(test_endpoints_have_rows_where_there_are_several),
        scene_test(test_rows_are_aligned),
        scene_test(test_json_has_the_schemas_names),
        scene_test(test_others_see_only_themselves),
        cmocka_unit_test(test_an_older_daemon_tells_its_health),
        scene_test(test_top_writes_one_report_after_the_other),
        scene_test(test_top_ends_when_nobody_is_there),
        scene_test(test_top_gives_the_terminal_back),
        scene_test(test_q_ends_top),
        cmocka_unit_test(test_wrong_options_are_told),
    };

    return cmocka_run_group_tests_name("cli status", tests, NULL, NULL);
}
