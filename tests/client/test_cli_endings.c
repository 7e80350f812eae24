/*
 * Ends that come from this side: time that is over, Ctrl-C, a kill, and output that nobody takes.
 * Each has its exit status, and the upstream's connection is closed, because generation costs
 * money.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "scene.h"

#define CREATE(...) CLI_ARGUMENTS("create", "--model", "m", "--prompt", "CANARY", __VA_ARGS__)

/* Less than any timer but those of the tests. */
enum { AT_ONCE_MS = 20000, QUIET_MS = 1000, EVENTS_MAX = 1 << 20 };

/* ---- Upstreams that do not end ---- */

static void say_nothing(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_wait_for_close(c);
}

static void say_one_thing(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("half")))
        fake_wait_for_close(c);
}

/* Talks until nobody takes it. Once that is for a while only, it is said and waited. */
static void talk(struct fake_connection *c)
{
    static const char event[] = "data: " FAKE_PART("a word of the CANARY's song") "\n\n";
    char chunk[512];
    int n = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", sizeof event - 1, event);

    if (!fake_read_request(c) || !fake_stream_begin(c))
        return;
    for (int i = 0; i < EVENTS_MAX; i++)
        if (fake_write_some(c, chunk, (size_t)n, QUIET_MS) < (size_t)n)
            break;
    fake_mark(c->fake, FAKE_STALLED);
    fake_wait_for_close(c);
}

/* The upstream has seen the end of the n-th call, soon after this time. */
static void assert_closed(struct scene *s, unsigned n, int64_t since_ms)
{
    assert_true(fake_await(s->fake, FAKE_CLOSED, n));
    assert_in_range(fake_closed_at_ms(s->fake) - since_ms, 0, AT_ONCE_MS);
    scene_assert_serving(s);
}

/* ---- Time ---- */

static void test_time_that_is_over_is_6(void **state)
{
    enum { TIMEOUT_MS = 2000 }; /* the upstream must have been asked by then */
    struct scene *s = *state;
    const char *const *commands[] = {CREATE("--timeout", "2000ms"),
                                     CREATE("--timeout", "2.0", "--stream")};
    struct cli c;

    scene_start(s, say_nothing, NULL, NULL);
    for (unsigned i = 0; i < 2; i++) {
        int64_t start = harness_now_ms();
        cli_run(&c, 6, s->daemon.socket, NULL, commands[i]);
        cli_assert_has(cli_errors(&c), "DEADLINE_EXCEEDED: ");
        /* The daemon's clock is that of its timers, which is a little behind. */
        assert_in_range(harness_now_ms() - start, TIMEOUT_MS - 10, AT_ONCE_MS);
        cli_done(&c);
        assert_closed(s, i + 1, start);
    }
    cli_run(&c, 6, s->daemon.socket, NULL, CREATE("--timeout", "0"));
    cli_done(&c);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 2);
    scene_stop(s);
}

static void test_time_that_is_over_in_a_stream_is_6_too(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, say_one_thing, NULL, NULL);
    int64_t start = harness_now_ms();
    cli_run(&c, 6, s->daemon.socket, NULL,
            CREATE("--timeout", "3s", "--stream", "--output", "text"));
    assert_string_equal(cli_text(&c), "half\n");
    cli_done(&c);
    assert_closed(s, 1, start);
    scene_stop(s);
}

/* ---- Signals ---- */

/* It says so in one line, with what had come and what that may cost. */
static void assert_interrupted(const struct cli *c, const char *came)
{
    assert_int_equal(strncmp(cli_errors(c), "completionctl: interrupted after ", 33), 0);
    cli_assert_has(cli_errors(c), " s: ");
    cli_assert_has(cli_errors(c), came);
    cli_assert_has(cli_errors(c), "may be billed\n");
    assert_string_equal(strchr(cli_errors(c), '\n'), "\n");
}

/* As servers do that tell what was used so far with each chunk. */
static void count_tokens(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) &&
        fake_event(c, "{\"id\":\"c\",\"object\":\"text_completion\",\"choices\":[{\"index\":0,"
                      "\"text\":\"half\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":{"
                      "\"prompt_tokens\":5,\"completion_tokens\":12,\"total_tokens\":17}}"))
        fake_wait_for_close(c);
}

static void test_ctrl_c_says_what_the_server_has_counted(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, count_tokens, NULL, NULL);
    cli_start(&c, s->daemon.socket, NULL, CREATE("--stream", "--output", "text"));
    cli_await_text(&c, "half");
    cli_signal(&c, SIGINT);
    cli_wait_exit(&c, 130);
    assert_interrupted(&c, ": 5 prompt tokens and 12 completion tokens were used; ");
    cli_done(&c);
    scene_stop(s);
}

static void test_ctrl_c_is_130_and_stops_the_generation(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, say_one_thing, NULL, NULL);
    for (unsigned i = 0; i < 2; i++) {
        cli_start(&c, s->daemon.socket, NULL, CREATE("--stream", "--output", "text"));
        cli_await_text(&c, "half");
        int64_t start = harness_now_ms();
        cli_signal(&c, signals[i]);
        cli_wait_exit(&c, 130);
        assert_closed(s, i + 1, start);
        assert_string_equal(cli_text(&c), "half\n");
        assert_interrupted(&c, "about 1 token had come; ");
        cli_done(&c);
    }
    scene_stop(s);
}

static void test_ctrl_c_before_the_first_byte(void **state)
{
    struct scene *s = *state;
    const char *const *commands[] = {CREATE("--n", "1"), CREATE("--stream")};
    struct cli c;

    scene_start(s, say_nothing, NULL, NULL);
    for (unsigned i = 0; i < 2; i++) {
        cli_start(&c, s->daemon.socket, NULL, commands[i]);
        assert_true(fake_await(s->fake, FAKE_REQUESTED, i + 1));
        int64_t start = harness_now_ms();
        cli_signal(&c, SIGINT);
        cli_wait_exit(&c, 130);
        assert_closed(s, i + 1, start);
        assert_string_equal(cli_text(&c), "");
        assert_interrupted(&c, "nothing had come; ");
        cli_done(&c);
    }
    scene_stop(s);
}

static void test_ctrl_c_while_nobody_takes_the_output(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, talk, NULL, NULL);
    cli_start(&c, s->daemon.socket, NULL, CREATE("--stream"));
    assert_true(fake_await(s->fake, FAKE_STALLED, 1));
    int64_t start = harness_now_ms();
    cli_signal(&c, SIGINT);
    cli_await_end(&c);
    assert_closed(s, 1, start);
    cli_wait_exit(&c, 130);
    assert_interrupted(&c, "tokens had come; ");
    cli_done(&c);
    scene_stop(s);
}

static void test_a_kill_stops_the_generation(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, say_one_thing, NULL, NULL);
    cli_start(&c, s->daemon.socket, NULL, CREATE("--stream", "--output", "text"));
    cli_await_text(&c, "half");
    int64_t start = harness_now_ms();
    cli_signal(&c, SIGKILL);
    cli_wait_exit(&c, 128 + SIGKILL);
    cli_done(&c);
    assert_closed(s, 1, start);
    scene_stop(s);
}

/* ---- Output ---- */

/* As `completionctl ... | head -1` does. */
static void test_a_reader_that_goes_away_stops_the_generation(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, talk, NULL, NULL);
    cli_start(&c, s->daemon.socket, NULL, CREATE("--stream"));
    cli_await_text(&c, "\n");
    int64_t start = harness_now_ms();
    cli_close_out(&c);
    cli_wait_exit(&c, 128 + SIGPIPE);
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
    assert_closed(s, 1, start);
    scene_stop(s);
}

static void serve_ok(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void test_output_that_nobody_reads_from_the_start(void **state)
{
    struct cli_options options = {.out_is_closed = true};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_ok, NULL, NULL);
    cli_run(&c, 128 + SIGPIPE, s->daemon.socket, &options, CREATE("--n", "1"));
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
    scene_stop(s);
}

static void test_a_full_disk_is_1_for_everything_that_writes(void **state)
{
    struct cli_options options = {.out_path = "/dev/full"};
    struct scene *s = *state;
    const char *const *commands[] = {
        CREATE("--n", "1"),
        CREATE("--output", "text"),
        CLI_ARGUMENTS("status"),
        CLI_ARGUMENTS("models"),
        CLI_ARGUMENTS("--help"),
        CLI_ARGUMENTS("create", "--help"),
        CLI_ARGUMENTS("help", "status"),
        CLI_ARGUMENTS("--version"),
    };
    struct cli c;

    scene_start(s, serve_ok, NULL, NULL);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        cli_run(&c, 1, s->daemon.socket, &options, commands[i]);
        assert_string_equal(
            cli_errors(&c),
            "completionctl: the output can't be written: No space left on device\n");
        cli_done(&c);
    }
    scene_stop(s);
}

static void test_a_full_disk_stops_the_generation(void **state)
{
    struct cli_options options = {.out_path = "/dev/full"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, talk, NULL, NULL);
    int64_t start = harness_now_ms();
    cli_run(&c, 1, s->daemon.socket, &options, CREATE("--stream"));
    cli_done(&c);
    assert_closed(s, 1, start);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_time_that_is_over_is_6),
        scene_test(test_time_that_is_over_in_a_stream_is_6_too),
        scene_test(test_ctrl_c_is_130_and_stops_the_generation),
        scene_test(test_ctrl_c_says_what_the_server_has_counted),
        scene_test(test_ctrl_c_before_the_first_byte),
        scene_test(test_ctrl_c_while_nobody_takes_the_output),
        scene_test(test_a_kill_stops_the_generation),
        scene_test(test_a_reader_that_goes_away_stops_the_generation),
        scene_test(test_output_that_nobody_reads_from_the_start),
        scene_test(test_a_full_disk_is_1_for_everything_that_writes),
        scene_test(test_a_full_disk_stops_the_generation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
