/* Each way to fail has its exit status, and says what happened and what to do. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "scene.h"

#define CREATE(...) CLI_ARGUMENTS("create", "--model", "m", "--prompt", "CANARY", __VA_ARGS__)

enum { NOBODY = 65534 };

/* ---- The daemon ---- */

static void test_no_daemon_is_3(void **state)
{
    struct scene *s = *state;
    const char *const *commands[] = {CREATE("--stream"), CREATE("--n", "1"),
                                     CLI_ARGUMENTS("status")};
    struct cli c;

    for (size_t i = 0; i < 3; i++) {
        cli_run(&c, 3, s->daemon.socket, NULL, commands[i]);
        cli_assert_has(cli_errors(&c), "UNAVAILABLE: completiond is not running");
        cli_assert_has(cli_errors(&c), s->daemon.socket);
        cli_assert_has(cli_errors(&c), "systemctl start completiond.socket");
        assert_string_equal(cli_text(&c), "");
        cli_done(&c);
    }
}

static void serve_ok(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void test_a_socket_that_is_not_for_me_is_3(void **state)
{
    struct cli_options nobody = {.uid = NOBODY};
    struct scene *s = *state;
    struct cli c;

    if (getuid() != 0) {
        print_message("skipped: only root can run the command as somebody else\n");
        skip();
    }
    scene_start(s, serve_ok, NULL, NULL);
    assert_int_equal(chmod(s->daemon.directory.path, 0711), 0);
    assert_int_equal(chmod(s->daemon.socket, 0660), 0);
    cli_start(&c, s->daemon.socket, &nobody, CLI_ARGUMENTS("status"));
    int status = cli_wait(&c);
    if (status == 127) {
        print_message("skipped: others may not run what was built\n");
        cli_done(&c);
        scene_stop(s);
        skip();
    }
    assert_int_equal(status, 3);
    cli_assert_has(cli_errors(&c), "PERMISSION_DENIED: cannot connect to completiond");
    cli_assert_has(cli_errors(&c), "usermod -aG completiond USER");
    cli_done(&c);
    cli_run(&c, 3, s->daemon.socket, &nobody, CREATE("--stream"));
    cli_done(&c);
    scene_stop(s);
}

static void test_status_is_0_where_it_serves(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_ok, NULL, NULL);
    cli_run(&c, 0, NULL, NULL, CLI_ARGUMENTS("status", "--socket", s->daemon.socket));
    cli_assert_has(cli_text(&c), "completiond is serving on ");
    cli_assert_has(cli_text(&c), s->daemon.socket);
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, NULL, CLI_ARGUMENTS("status", "--timeout", "1min"));
    cli_done(&c);
    scene_stop(s);
}

/* --socket before the variable before the runtime directory. */
static void test_the_socket_is_looked_for_in_order(void **state)
{
    struct scene *s = *state;
    char runtime[128], path[160];
    struct cli_options options = {.environment = CLI_ARGUMENTS(runtime)};
    struct cli c;

    scene_start(s, serve_ok, NULL, NULL);
    snprintf(runtime, sizeof runtime, "XDG_RUNTIME_DIR=%s", s->daemon.directory.path);
    snprintf(path, sizeof path, "%s/completiond", s->daemon.directory.path);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/completiond/rpc.sock", s->daemon.directory.path);
    assert_int_equal(symlink(s->daemon.socket, path), 0);
    cli_run(&c, 0, NULL, &options, CLI_ARGUMENTS("status"));
    cli_assert_has(cli_text(&c), path);
    cli_done(&c);
    cli_run(&c, 3, "/nonexistent", &options, CLI_ARGUMENTS("status"));
    cli_done(&c);
    cli_run(&c, 0, "/nonexistent", &options, CLI_ARGUMENTS("status", "--socket", s->daemon.socket));
    cli_done(&c);
    scene_stop(s);
}

/* ---- The upstream ---- */

struct answer {
    int http_status;
    const char *headers, *body;
    int status;            /* of the command */
    const char *says[10];  /* on standard error */
    const char *lacks[10]; /* there */
};

static const struct answer answers[] = {
    {400,
     "x-request-id: req_400\r\n",
     "{\"error\":{\"message\":\"too long\",\"type\":\"invalid_request_error\","
     "\"param\":\"max_tokens\",\"code\":\"context_length_exceeded\"}}",
     4,
     {"INVALID_ARGUMENT: ", "too long", "http status 400", "type        invalid_request_error",
      "param       max_tokens", "code        context_length_exceeded", "upstream    fake",
      "request id  req_400"},
     {"later", "retry after", "bill"}},
    {401,
     "",
     "{\"error\":{\"message\":\"Incorrect API key provided\",\"type\":\"invalid_request_error\","
     "\"param\":null,\"code\":\"invalid_api_key\"}}",
     4,
     {"UNAUTHENTICATED: ", "Incorrect API key", "administrator", "http status 401",
      "code        invalid_api_key"},
     {"param ", "later"}},
    {404,
     "",
     "{\"error\":{\"message\":\"no such model\",\"code\":\"model_not_found\"}}",
     4,
     {"NOT_FOUND: ", "no such model"},
     {"later"}},
    {429,
     "Retry-After: 3600\r\nx-request-id: req_429\r\n",
     "{\"error\":{\"message\":\"Rate limit reached\",\"type\":\"requests\","
     "\"code\":\"rate_limit_exceeded\"}}",
     5,
     {"RESOURCE_EXHAUSTED: ", "Rate limit reached", "http status 429", "type        requests",
      "retry after 3600 s\n", "request id  req_429", "the same request may succeed later"},
     {"bill"}},
    {429,
     "retry-after-ms: 1500\r\n",
     "{}",
     5,
     {"retry after 1.5 s\n", "the same request may succeed later"},
     {NULL}},
    {500,
     "",
     "{\"error\":{\"message\":\"boom \\u001b[31m\\u009b31m\\u007f\",\"type\":\"server_error\"}}",
     5,
     {"boom ", "http status 500", "type        server_error",
      "the upstream may have done, and bill, the work"},
     {"\033", "\xc2\x9b", "\x7f"}},
    {503, "", "Service Unavailable", 5, {"UNAVAILABLE: ", "later"}, {NULL}},
};

static void answer(struct fake_connection *c)
{
    const struct answer *const *a = c->user;

    while (fake_read_request(c) &&
           fake_answer(c, (*a)->http_status, "application/json", (*a)->headers, (*a)->body))
        ;
}

static void test_refusals_and_failures_are_told_apart(void **state)
{
    struct scene *s = *state;
    const struct answer *a = answers;
    struct cli c;

    scene_start(s, answer, &a, NULL);
    for (size_t i = 0; i < 2 * sizeof answers / sizeof *answers; i++) {
        a = &answers[i / 2];
        cli_run(&c, a->status, s->daemon.socket, NULL,
                i % 2 ? CREATE("--stream", "--output", "text") : CREATE("--output", "json"));
        for (size_t k = 0; k < 10 && a->says[k]; k++)
            cli_assert_has(cli_errors(&c), a->says[k]);
        for (size_t k = 0; k < 10 && a->lacks[k]; k++)
            cli_assert_lacks(cli_errors(&c), a->lacks[k]);
        cli_assert_lacks(cli_errors(&c), SCENE_SECRET);
        assert_string_equal(cli_text(&c), "");
        cli_done(&c);
    }
    scene_stop(s);
}

static void test_no_upstream_is_5(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_ok, NULL, "base_url = http://127.0.0.1:1/v1\n");
    cli_run(&c, 5, s->daemon.socket, NULL, CREATE("--stream"));
    cli_assert_has(cli_errors(&c), "UNAVAILABLE: ");
    cli_assert_has(cli_errors(&c), "reason      UPSTREAM_UNREACHABLE");
    cli_assert_lacks(cli_errors(&c), "bill");
    cli_done(&c);
    scene_stop(s);
}

/* ---- Answers that break ---- */

static void cut_a_stream(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("half")))
        fake_shut_down(c);
}

static void test_a_stream_that_was_cut_is_7(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, cut_a_stream, NULL, NULL);
    cli_run(&c, 7, s->daemon.socket, NULL, CREATE("--stream", "--output", "text"));
    assert_string_equal(cli_text(&c), "half\n");
    cli_assert_has(cli_errors(&c), "reason      STREAM_TRUNCATED");
    cli_assert_has(cli_errors(&c), "the upstream may have done, and bill, the work");
    cli_done(&c);
    cli_run(&c, 7, s->daemon.socket, NULL, CREATE("--stream"));
    cli_assert_has(cli_text(&c), "\"text\":\"half\"");
    cli_done(&c);
    scene_stop(s);
}

static void cut_an_answer(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_print(c, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{\"id\":\"");
}

static void test_an_answer_that_was_cut_is_7_and_shows_nothing(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, cut_an_answer, NULL, NULL);
    cli_run(&c, 7, s->daemon.socket, NULL, CREATE("--output", "text"));
    assert_string_equal(cli_text(&c), "");
    cli_assert_has(cli_errors(&c), "UNAVAILABLE: ");
    cli_done(&c);
    scene_stop(s);
}

static void fail_in_a_stream(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("half")) &&
        fake_event(c, "{\"error\":{\"message\":\"out of blocks\",\"type\":\"server_error\"}}"))
        fake_stream_done(c);
}

static void test_a_stream_that_tells_an_error_is_7(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, fail_in_a_stream, NULL, NULL);
    cli_run(&c, 7, s->daemon.socket, NULL, CREATE("--stream", "--output", "text"));
    assert_string_equal(cli_text(&c), "half\n");
    cli_assert_has(cli_errors(&c), "out of blocks");
    cli_done(&c);
    scene_stop(s);
}

static void tell_and_wait(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("half")))
        fake_wait_for_close(c);
}

static void test_a_daemon_that_dies_in_a_stream_is_7(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, tell_and_wait, NULL, NULL);
    cli_start(&c, s->daemon.socket, NULL, CREATE("--stream", "--output", "text"));
    cli_await_text(&c, "half");
    rpc_close(&s->rpc);
    daemon_signal(&s->daemon, SIGKILL);
    daemon_wait(&s->daemon);
    cli_wait_exit(&c, 7);
    cli_assert_has(cli_errors(&c), "UNAVAILABLE: completiond closed the connection");
    cli_done(&c);
}

/* ---- Keys ---- */

#define OWN_KEY "sk-CANARY-own-key"

/* The upstream was asked with this key. */
static void assert_key(struct scene *s, const char *key)
{
    char expected[96];
    char *head = fake_last_head(s->fake);

    snprintf(expected, sizeof expected, "Authorization: Bearer %s\r\n", key);
    cli_assert_has(head, expected);
    free(head);
}

static void test_a_key_of_my_own_comes_in_three_ways(void **state)
{
    struct scene *s = *state;
    struct cli_options variable = {.environment = CLI_ARGUMENTS("COMPLETIOND_API_KEY=" OWN_KEY)};
    struct cli_options other = {.environment = CLI_ARGUMENTS("COMPLETIOND_API_KEY=sk-other")};
    char option[160];
    struct cli c;

    scene_start(s, serve_ok, NULL, "[policy *]\nallow_own_key = yes\n");
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--n", "1"));
    assert_key(s, SCENE_KEY);
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, &other, CREATE("--api-key", OWN_KEY));
    assert_key(s, OWN_KEY);
    cli_done(&c);
    snprintf(option, sizeof option, "@%s",
             directory_write(&s->daemon.directory, "own", OWN_KEY "\n"));
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--api-key", option));
    assert_key(s, OWN_KEY);
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--n", "1"));
    assert_key(s, SCENE_KEY);
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, &variable, CREATE("--n", "1"));
    assert_key(s, OWN_KEY);
    cli_done(&c);
    scene_stop(s);
}

static void test_a_key_of_my_own_is_refused_by_policy(void **state)
{
    struct cli_options variable = {.environment = CLI_ARGUMENTS("COMPLETIOND_API_KEY=" OWN_KEY)};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_ok, NULL, NULL);
    cli_run(&c, 4, s->daemon.socket, &variable, CREATE("--n", "1"));
    cli_assert_has(cli_errors(&c), "PERMISSION_DENIED: ");
    cli_assert_has(cli_errors(&c), "allow_own_key");
    cli_assert_has(cli_errors(&c), "reason      NOT_ALLOWED");
    cli_assert_lacks(cli_errors(&c), OWN_KEY);
    cli_done(&c);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 0);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_no_daemon_is_3),
        scene_test(test_a_socket_that_is_not_for_me_is_3),
        scene_test(test_status_is_0_where_it_serves),
        scene_test(test_the_socket_is_looked_for_in_order),
        scene_test(test_refusals_and_failures_are_told_apart),
        scene_test(test_no_upstream_is_5),
        scene_test(test_a_stream_that_was_cut_is_7),
        scene_test(test_an_answer_that_was_cut_is_7_and_shows_nothing),
        scene_test(test_a_stream_that_tells_an_error_is_7),
        scene_test(test_a_daemon_that_dies_in_a_stream_is_7),
        scene_test(test_a_key_of_my_own_comes_in_three_ways),
        scene_test(test_a_key_of_my_own_is_refused_by_policy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
