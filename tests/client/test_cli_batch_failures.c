/* Batches in which calls fail, are made again, and end early; and what is said meanwhile. */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_batch.h"
#include "scene.h"

#define BATCH(...) CLI_ARGUMENTS("create", "--model", "m", "--jsonl", "-", __VA_ARGS__)

/* ---- Again, and not again ---- */

struct failure {
    const char *headers, *body;
    int http_status;
    unsigned n; /* times, then it goes well */
};

static void fail_at_first(struct fake_connection *c)
{
    const struct failure *f = c->user;

    while (fake_read_request(c)) {
        fake_mark(c->fake, FAKE_GO);
        bool ok = fake_count(c->fake, FAKE_GO) <= f->n
                      ? fake_answer(c, f->http_status, "application/json", f->headers, f->body)
                      : batch_echo(c);
        if (!ok)
            return;
    }
}

static void test_what_may_succeed_later_is_asked_again(void **state)
{
    static const struct {
        struct failure failure;
        const char *retries;
        int status;
        unsigned n_asked;
    } table[] = {
        {{"", "{}", 503, 1}, "1", 0, 2},
        {{"", "{}", 503, 2}, "1", 8, 2},
        {{"", "{}", 503, 1}, "0", 8, 1},
        {{"retry-after-ms: 20\r\n", "{}", 429, 3}, "3", 0, 4},
        /* Not today. */
        {{"Retry-After: 3600\r\n", "{}", 429, 1}, "3", 8, 1},
        /* It would be refused again. */
        {{"", "{\"error\":{\"message\":\"too long\"}}", 400, 1}, "3", 8, 1},
    };
    struct cli_options options = {.in = "{\"prompt\":\"a\"}"};
    struct scene *s = *state;
    struct cli c;

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        scene_start(s, fail_at_first, &table[i].failure, NULL);
        cli_run(&c, table[i].status, s->daemon.socket, &options,
                BATCH("--retries", table[i].retries));
        assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), table[i].n_asked);
        json_object *all = batch_results(cli_text(&c));
        assert_int_equal(json_object_array_length(all), 1);
        assert_string_equal(batch_text_of(all, 0), table[i].status ? "" : "a");
        json_object_put(all);
        cli_done(&c);
        scene_stop(s);
        scene_teardown(state);
        scene_setup(state);
        s = *state;
    }
}

static void test_an_error_has_all_that_is_known(void **state)
{
    static const struct failure failure = {
        "Retry-After: 3600\r\nx-request-id: req_429\r\n",
        "{\"error\":{\"message\":\"Rate limit \\u001b\",\"type\":\"requests\",\"param\":\"p\","
        "\"code\":\"rate_limit_exceeded\"}}",
        429, 1};
    struct cli_options options = {.in = "{\"custom_id\":\"i\",\"prompt\":\"a\"}\n"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, fail_at_first, &failure, NULL);
    cli_run(&c, 8, s->daemon.socket, &options, BATCH("--jobs", "1"));
    json_object *all = batch_results(cli_text(&c)), *e = batch_error_of(all, 0);
    json_object *result = json_object_array_get_idx(all, 0);
    assert_string_equal(json_object_get_string(batch_member(result, "custom_id")), "i");
    batch_assert_error(all, 0, "status", "RESOURCE_EXHAUSTED");
    batch_assert_error(all, 0, "reason", "UPSTREAM_RATE_LIMIT");
    batch_assert_error(all, 0, "type", "requests");
    batch_assert_error(all, 0, "param", "p");
    batch_assert_error(all, 0, "code", "rate_limit_exceeded");
    batch_assert_error(all, 0, "upstream", "fake");
    batch_assert_error(all, 0, "request_id", "req_429");
    cli_assert_has(json_object_get_string(batch_member(e, "call_id")), "call-");
    cli_assert_has(json_object_get_string(batch_member(e, "message")), "Rate limit");
    assert_int_equal(json_object_get_int(batch_member(e, "http_status")), 429);
    assert_int_equal(json_object_get_int64(batch_member(e, "retry_after_ms")), 3600000);
    assert_true(json_object_get_boolean(batch_member(e, "retryable")));
    assert_false(json_object_get_boolean(batch_member(e, "maybe_executed")));
    json_object_put(all);
    assert_string_equal(cli_errors(&c) + strspn(cli_errors(&c), "01"),
                        " answered, 1 failed; 0.0 s\n");
    cli_done(&c);
    scene_stop(s);
}

/* More than a minute's worth: the batch keeps to the limit, and nothing fails for it. */
static void test_a_limit_of_ones_own_is_kept(void **state)
{
    struct scene *s = *state;
    char in[2048] = "";
    struct cli_options options = {.in = in};
    struct cli c;

    for (int i = 0; i < 64; i++)
        strcat(in, "{\"prompt\":\"a\"}\n");
    scene_start(s, batch_serve, NULL, "[policy *]\nrequests_per_minute = 60\n");
    cli_run(&c, 0, s->daemon.socket, &options, BATCH("--jobs", "3", "--retries", "0"));
    assert_string_equal(cli_errors(&c), "");
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 64);
    json_object *all = batch_results(cli_text(&c));
    assert_int_equal(json_object_array_length(all), 64);
    json_object_put(all);
    cli_done(&c);
    scene_stop(s);
}

static void test_each_request_has_its_own_deadline(void **state)
{
    struct cli_options options = {
        .in = "{\"prompt\":\"a\"}\n{\"prompt\":\"hang\"}\n{\"prompt\":\"c\"}\n"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    cli_run(&c, 8, s->daemon.socket, &options,
            BATCH("--jobs", "1", "--timeout", "500ms", "--retries", "0"));
    json_object *all = batch_results(cli_text(&c));
    assert_int_equal(json_object_array_length(all), 3);
    assert_string_equal(batch_text_of(all, 0), "a");
    batch_assert_error(all, 1, "status", "DEADLINE_EXCEEDED");
    assert_string_equal(batch_text_of(all, 2), "c");
    json_object_put(all);
    cli_done(&c);
    scene_stop(s);
}

/* ---- The daemon ---- */

static void test_nobody_there_is_3_at_once(void **state)
{
    struct cli_options options = {.in = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n"};
    struct scene *s = *state;
    struct cli c;
    int64_t start = harness_now_ms();

    cli_run(&c, 3, s->daemon.socket, &options, BATCH("--jobs", "1"));
    assert_in_range(harness_now_ms() - start, 0, 5000);
    assert_string_equal(cli_text(&c), "");
    cli_assert_has(cli_errors(&c), "completiond is not running");
    cli_assert_lacks(cli_errors(&c), "resume");
    cli_done(&c);
}

/* One that is there again soon is waited for, and what it had not answered is asked again. */
static void test_a_daemon_that_dies_and_comes_back_fails_nothing(void **state)
{
    struct scene *s = *state;
    char in[1024] = "{\"prompt\":\"first\"}\n{\"prompt\":\"hang\"}\n";
    struct cli_options options = {.in = in};
    struct cli c;

    for (int i = 0; i < 20; i++)
        strcat(in, "{\"prompt\":\"x\"}\n");
    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "1"));
    cli_await_text(&c, "\n");
    assert_true(fake_await(s->fake, FAKE_STEP, 2));
    daemon_signal(&s->daemon, SIGKILL);
    assert_int_equal(daemon_wait(&s->daemon), SIGKILL);
    fake_mark(s->fake, FAKE_GO);
    daemon_start(&s->daemon, NULL);
    cli_wait_exit(&c, 0);
    json_object *all = batch_results(cli_text(&c));
    assert_int_equal(json_object_array_length(all), 22);
    assert_string_equal(batch_text_of(all, 1), "hang");
    json_object_put(all);
    cli_done(&c);
    daemon_stop(&s->daemon);
}

/* ---- Ctrl-C ---- */

/* What had come is written, though not all before it had; the calls are ended. */
static void test_ctrl_c_loses_nothing_that_has_come(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct cli_options options = {.in = "{\"prompt\":\"a\"}\n{\"prompt\":\"hang\"}\n"
                                        "{\"prompt\":\"c\"}\n{\"prompt\":\"hang too\"}\n"
                                        "{\"prompt\":\"e\"}\n{\"prompt\":\"hang again\"}\n"};
    struct scene *s = *state;
    struct cli c;

    for (size_t i = 0; i < 2; i++) {
        scene_start(s, batch_serve, NULL, NULL);
        cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "3"));
        cli_await_text(&c, "\n");
        assert_true(fake_await(s->fake, FAKE_STEP, 6));
        cli_signal(&c, signals[i]);
        cli_wait_exit(&c, 130);
        json_object *all = batch_results(cli_text(&c));
        assert_int_equal(json_object_array_length(all), 3);
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(
                json_object_get_int(batch_member(json_object_array_get_idx(all, k), "index")),
                2 * k);
        json_object_put(all);
        cli_assert_has(cli_errors(&c),
                       "completionctl: interrupted: 3 calls were cancelled, and may be billed\n"
                       "3 answered, 0 failed; 6 prompt tokens, 9 completion tokens; ");
        cli_assert_has(cli_errors(&c), "With --output-file it could go on with --resume.\n");
        cli_done(&c);
        scene_assert_serving(s);
        scene_stop(s);
        scene_teardown(state);
        scene_setup(state);
        s = *state;
    }
}

/* Nobody reads; the pipe is full. */
static void test_ctrl_c_while_nobody_takes_the_answers(void **state)
{
    enum { N = 2000 };
    struct scene *s = *state;
    char *in = calloc(N, 20);
    struct cli_options options = {.in = in};
    struct cli c;

    assert_non_null(in);
    for (int i = 0; i < N; i++)
        strcpy(in + strlen(in), "{\"prompt\":\"x\"}\n");
    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "4"));
    /* A pipe holds some hundred answers. */
    assert_true(fake_await(s->fake, FAKE_STEP, 200));
    cli_signal(&c, SIGINT);
    cli_await_end(&c);
    cli_wait_exit(&c, 130);
    cli_assert_has(cli_errors(&c), "interrupted: ");
    cli_done(&c);
    scene_stop(s);
    free(in);
}

static void test_a_reader_that_goes_away_ends_it(void **state)
{
    struct cli_options options = {.in = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n",
                                  .out_is_closed = true};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    cli_run(&c, 128 + SIGPIPE, s->daemon.socket, &options, BATCH("--jobs", "1"));
    cli_done(&c);
    scene_stop(s);
}

static void test_a_full_disk_is_1(void **state)
{
    struct cli_options options = {.in = "{\"prompt\":\"a\"}\n", .out_path = "/dev/full"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    cli_run(&c, 1, s->daemon.socket, &options, BATCH("--jobs", "1"));
    cli_assert_has(cli_errors(&c), "the output can't be written: No space left on device\n");
    cli_done(&c);
    scene_stop(s);
}

/* ---- In front of a person ---- */

static void test_a_bar_shows_how_far_it_is(void **state)
{
    struct scene *s = *state;
    char file[512], path[160];
    struct cli_options options = {.err_is_terminal = true};
    struct cli c;

    snprintf(file, sizeof file,
             "{\"prompt\":\"a\"}\nnonsense\n{\"prompt\":\"hang\"}\n{\"prompt\":\"d\"}\n");
    snprintf(path, sizeof path, "%s", directory_write(&s->daemon.directory, "in.jsonl", file));
    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options,
              CLI_ARGUMENTS("create", "--model", "m", "--jobs", "1", "--jsonl", path));
    cli_await_errors(&c, "\r[========>       ] 2/4, 1 failed, 1 running");
    cli_await_errors(&c, "\r[========>       ] 2/4, 1 s left, 1 failed, 1 running, ");
    cli_await_errors(&c, "/s, ");
    cli_await_errors(&c, " tokens/s\033[K");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&c, 8);
    /* Then one line is left. */
    cli_assert_has(cli_errors(&c), "\r\033[K3 answered, 1 failed; 6 prompt tokens, 9 ");
    batch_assert_texts(cli_text(&c), 4, (const char *const[]){"a", "", "hang", "d"});
    cli_done(&c);

    /* Of what has no known end. */
    options.in = file;
    scene_stop(s);
    scene_teardown(state);
    scene_setup(state);
    s = *state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    options.in_fd = fds[0];
    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "1"));
    assert_int_equal(write(fds[1], "{\"prompt\":\"a\"}\n", 15), 15);
    cli_await_errors(&c, "\r1 done, 0 running");
    cli_signal(&c, SIGINT);
    cli_wait_exit(&c, 130);
    cli_done(&c);
    close(fds[0]);
    close(fds[1]);
    scene_stop(s);
}

static void be_evil(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           fake_answer(c, 200, "application/json", "", FAKE_LAST("\\u001b[31m\\u009b0m\\u007f")))
        ;
}

static void test_answers_can_not_play_with_the_terminal(void **state)
{
    struct cli_options options = {.in = "{\"custom_id\":\"\xc2\x9b\x7f\",\"prompt\":\"a\"}",
                                  .out_is_terminal = true};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, be_evil, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, &options, BATCH("--jobs", "1"));
    cli_assert_lacks(cli_text(&c), "\033");
    cli_assert_lacks(cli_text(&c), "\xc2\x9b");
    cli_assert_lacks(cli_text(&c), "\x7f");
    json_object *all = batch_results(cli_text(&c));
    assert_string_equal(batch_text_of(all, 0), "\033[31m\xc2\x9b"
                                               "0m\x7f");
    json_object_put(all);
    cli_done(&c);
    scene_stop(s);
}

/* ---- Options ---- */

static void test_what_does_not_go_together_is_told(void **state)
{
    static const struct {
        const char *arguments[8], *says;
    } table[] = {
        {{"create", "--jsonl", "-", "--prompt", "x"}, "--prompt: each line"},
        {{"create", "--jsonl", "-", "--stream"}, "--stream: a batch"},
        {{"create", "--jsonl", "-", "--output", "text"}, "--output text: a batch"},
        {{"create", "--jsonl", "-", "--usage"}, "--usage: "},
        {{"create", "--jsonl", "-", "--resume"}, "--resume needs --output-file"},
        {{"create", "--jsonl", "-", "--stream-options", "{}"}, "--stream-options needs --stream"},
        {{"create", "--jsonl", "-", "--jobs", "0"}, "--jobs: a number from 1 to 1000"},
        {{"create", "--jsonl", "-", "--jobs", "x"}, "--jobs: a number from 1 to 1000"},
        {{"create", "--jsonl", "-", "--retries", "-1"}, "--retries: a number from 0 to 100"},
        {{"create", "--jsonl", "/nonexistent"}, "--jsonl: /nonexistent: No such file"},
        {{"create", "--jsonl", "/"}, "--jsonl: /: Is a directory"},
        {{"create", "--jsonl", "-", "--output-file", "/dev/null"}, "/dev/null is no file"},
        {{"create", "--model", "m", "--jobs", "2"}, "need --jsonl"},
        {{"create", "--model", "m", "--retries", "2"}, "need --jsonl"},
        {{"create", "--model", "m", "--resume"}, "need --jsonl"},
        {{"create", "--model", "m", "--output-file", "x"}, "need --jsonl"},
    };
    struct cli c;

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        cli_run(&c, 2, "/nonexistent", NULL, table[i].arguments);
        cli_assert_has(cli_errors(&c), table[i].says);
        cli_assert_has(cli_errors(&c), "'completionctl create --help'");
        cli_done(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_what_may_succeed_later_is_asked_again),
        scene_test(test_an_error_has_all_that_is_known),
        scene_test(test_a_limit_of_ones_own_is_kept),
        scene_test(test_each_request_has_its_own_deadline),
        scene_test(test_nobody_there_is_3_at_once),
        scene_test(test_a_daemon_that_dies_and_comes_back_fails_nothing),
        scene_test(test_ctrl_c_loses_nothing_that_has_come),
        scene_test(test_ctrl_c_while_nobody_takes_the_answers),
        scene_test(test_a_reader_that_goes_away_ends_it),
        scene_test(test_a_full_disk_is_1),
        scene_test(test_a_bar_shows_how_far_it_is),
        scene_test(test_answers_can_not_play_with_the_terminal),
        cmocka_unit_test(test_what_does_not_go_together_is_told),
    };

    return cmocka_run_group_tests_name("cli batch failures", tests, NULL, NULL);
}
