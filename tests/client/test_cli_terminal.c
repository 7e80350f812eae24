/* In front of a person: a wait that shows, and text that can't play with the terminal. */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "scene.h"

#define CREATE(...) CLI_ARGUMENTS("create", "--model", "m", "--prompt", "CANARY", __VA_ARGS__)
#define ERASED      "\r\033[K"

static const struct cli_options terminal = {.out_is_terminal = true, .err_is_terminal = true};
static const struct cli_options only_out = {.out_is_terminal = true};
static const struct cli_options only_err = {.err_is_terminal = true};

/* ---- The wait ---- */

/* Answers when the test says so. */
static void wait_for_go(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_await(c->fake, FAKE_GO, 1)) {
        if (strstr(c->body, "\"stream\":true"))
            fake_print(c,
                       "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                       "Connection: close\r\n\r\ndata: " FAKE_LAST("here") "\n\ndata: [DONE]\n\n");
        else
            fake_answer(c, 200, "application/json", "", FAKE_LAST("here"));
    }
}

/* Where the sign of life was taken away for good; fails if it was not there. */
static const char *behind_the_sign(const char *text)
{
    const char *end = strstr(text, ERASED);

    assert_int_equal(strncmp(text, "\r", 1), 0);
    cli_assert_has(text, " waiting, ");
    if (!end || strstr(end, "waiting, "))
        fail_msg("the sign stands between the output: %s", text);
    return end + strlen(ERASED);
}

static void test_a_wait_is_shown_and_gone_before_the_answer(void **state)
{
    struct scene *s = *state;
    const char *const *commands[] = {CREATE("--output", "text"),
                                     CREATE("--output", "text", "--stream")};
    struct cli c[2];

    scene_start(s, wait_for_go, NULL, NULL);
    for (size_t i = 0; i < 2; i++)
        cli_start(&c[i], s->daemon.socket, &terminal, commands[i]);
    for (size_t i = 0; i < 2; i++)
        cli_await_text(&c[i], "waiting, 0 s");
    /* It moves. */
    cli_await_text(&c[0], "\r/ waiting");
    cli_await_text(&c[0], "\r- waiting");
    fake_mark(s->fake, FAKE_GO);
    for (size_t i = 0; i < 2; i++) {
        cli_wait_exit(&c[i], 0);
        assert_string_equal(behind_the_sign(cli_text(&c[i])), "here\n");
        cli_done(&c[i]);
    }
    scene_stop(s);
}

/* One that started before one that shows its sign has had reason to show it, too. */
static void test_a_wait_is_only_shown_on_a_terminal(void **state)
{
    struct scene *s = *state;
    struct cli piped, shown;

    scene_start(s, wait_for_go, NULL, NULL);
    cli_start(&piped, s->daemon.socket, &only_out, CREATE("--output", "text"));
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    cli_start(&shown, s->daemon.socket, &only_err, CREATE("--output", "text"));
    cli_await_errors(&shown, "waiting, 1 s");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&piped, 0);
    assert_string_equal(cli_text(&piped), "here\n");
    assert_string_equal(cli_errors(&piped), "");
    cli_done(&piped);
    cli_wait_exit(&shown, 0);
    assert_string_equal(cli_text(&shown), "here\n");
    assert_string_equal(behind_the_sign(cli_errors(&shown)), "");
    cli_done(&shown);
    scene_stop(s);
}

static void test_a_wait_that_fails_leaves_no_sign_in_the_error(void **state)
{
    struct scene *s = *state;
    const char *const *commands[] = {CREATE("--timeout", "1s"),
                                     CREATE("--timeout", "1s", "--stream")};
    struct cli c;

    scene_start(s, wait_for_go, NULL, NULL);
    for (size_t i = 0; i < 2; i++) {
        cli_run(&c, 6, s->daemon.socket, &terminal, commands[i]);
        const char *error = behind_the_sign(cli_text(&c));
        assert_int_equal(strncmp(error, "completionctl: DEADLINE_EXCEEDED: ", 34), 0);
        cli_done(&c);
    }
    scene_stop(s);
}

static void serve_ok(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void test_what_comes_at_once_shows_no_sign(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_ok, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, &terminal, CREATE("--output", "text"));
    /* On a machine that is slow enough it may be there. */
    if (strstr(cli_text(&c), "waiting"))
        assert_string_equal(behind_the_sign(cli_text(&c)), "ok\n");
    else
        assert_string_equal(cli_text(&c), "ok\n");
    cli_done(&c);
    scene_stop(s);
}

/* ---- How it is shown where nothing is said ---- */

static void assert_asked(struct scene *s, const char *part, bool expected)
{
    char *body = fake_last_body(s->fake);

    cli_assert_part(body, part, expected, __FILE__, __LINE__);
    free(body);
}

/* Whole answers, or streams: two pieces. */
static void serve_both(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true"))
            fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"));
        else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("in ")) ||
                 !fake_event(c, FAKE_LAST("pieces")) || !fake_stream_done(c))
            return;
    }
}

static void test_a_terminal_gets_streamed_text_and_a_pipe_json(void **state)
{
    static const struct {
        bool on_terminal;
        const char *options[3], *text;
        bool stream;
    } table[] = {
        {true, {NULL}, "in pieces\n", true},
        {true, {"--output", "text"}, "in pieces\n", true},
        {true, {"--n", "1"}, "in pieces\n", true},
        {true, {"--output", "json"}, "{\"id\":", false},
        {true, {"--stream=false"}, "whole\n", false},
        /* Several would run through each other, and the best one is only known at the end. */
        {true, {"--n", "2"}, "whole\n", false},
        {true, {"--prompt", "another"}, "whole\n", false},
        {true, {"--best-of", "2"}, "whole\n", false},
        {false, {NULL}, "{\"id\":", false},
        {false, {"--output", "text"}, "whole\n", false},
        {false, {"--stream"}, "{\"id\":", true},
    };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_both, NULL, NULL);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        cli_run(&c, 0, s->daemon.socket, table[i].on_terminal ? &only_out : NULL,
                CREATE(table[i].options[0], table[i].options[1]));
        cli_assert_has(cli_text(&c), table[i].text);
        assert_asked(s, "\"stream\":true", table[i].stream);
        cli_done(&c);
    }
    scene_stop(s);
}

/* The text comes piece by piece. */
static void stop_between(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("first ")) &&
        fake_await(c->fake, FAKE_GO, 1) && fake_event(c, FAKE_LAST("second")))
        fake_stream_done(c);
}

static void test_text_is_there_before_its_end(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, stop_between, NULL, NULL);
    cli_start(&c, s->daemon.socket, &terminal, CREATE("--n", "1"));
    cli_await_text(&c, "first ");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&c, 0);
    cli_assert_has(cli_text(&c), "first second\n");
    cli_done(&c);
    scene_stop(s);
}

static void test_a_stream_to_elsewhere_shows_how_far_it_is(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, stop_between, NULL, NULL);
    cli_start(&c, s->daemon.socket, &only_err, CREATE("--stream", "--output", "text"));
    cli_await_errors(&c, "1 s, about 1 token, ");
    cli_await_errors(&c, " a second ");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&c, 0);
    assert_string_equal(cli_text(&c), "first second\n");
    /* Nothing of it stays. */
    const char *end = cli_errors(&c) + strlen(cli_errors(&c)) - strlen(ERASED);
    assert_string_equal(end, ERASED);
    cli_done(&c);
    scene_stop(s);
}

/* ---- What it took ---- */

static void count_tokens(struct fake_connection *c)
{
    static const char usage[] =
        "{\"id\":\"c\",\"object\":\"text_completion\",\"choices\":[],\"usage\":"
        "{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}";

    while (fake_read_request(c)) {
        bool counts = strstr(c->body, "\"include_usage\":true");
        if (!strstr(c->body, "\"stream\":true"))
            fake_answer(c, 200, "application/json", "", usage);
        else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a ")) ||
                 !fake_event(c, FAKE_LAST("b")) || (counts && !fake_event(c, usage)) ||
                 !fake_stream_done(c))
            return;
    }
}

static void test_usage_is_said_at_the_end(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, count_tokens, NULL, NULL);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--usage", "--stream", "--output", "text"));
    assert_string_equal(cli_text(&c), "a b\n");
    assert_int_equal(strncmp(cli_errors(&c), "5 prompt tokens, 2 completion tokens; 0.", 40), 0);
    cli_assert_has(cli_errors(&c), " s, the first after 0.");
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--usage"));
    cli_assert_has(cli_text(&c), "\"usage\":{");
    cli_assert_has(cli_errors(&c), "5 prompt tokens, 2 completion tokens; ");
    cli_done(&c);
    /* Who says what a stream is to tell is taken at the word. */
    cli_run(&c, 0, s->daemon.socket, NULL,
            CREATE("--usage", "--stream", "--stream-options", "{\"include_usage\":false}"));
    cli_assert_has(cli_errors(&c), "the server does not say how many tokens; ");
    cli_done(&c);
    cli_run(&c, 0, s->daemon.socket, NULL, CREATE("--stream"));
    assert_asked(s, "include_usage", false);
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
    scene_stop(s);
}

/* ---- Colours ---- */

static void test_colours_are_only_where_they_are_wanted(void **state)
{
    static const struct {
        const char *environment[3];
        bool on_terminal, has;
    } table[] = {
        {{"TERM=xterm"}, true, true},
        {{"TERM=xterm", "NO_COLOR="}, true, true},
        {{"TERM=xterm", "NO_COLOR=1"}, true, false},
        {{"TERM=dumb"}, true, false},
        {{NULL}, true, false},
        {{"TERM=xterm"}, false, false},
    };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, serve_both, NULL, NULL);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct cli_options options = {.environment = table[i].environment,
                                      .out_is_terminal = table[i].on_terminal,
                                      .err_is_terminal = table[i].on_terminal};
        cli_run(&c, 2, s->daemon.socket, &options, CLI_ARGUMENTS("create", "--n", "1"));
        const char *said = table[i].on_terminal ? cli_text(&c) : cli_errors(&c);
        cli_assert_has(said, table[i].has ? "\033[1;31mcompletionctl:\033[0m --model"
                                          : "completionctl: --model");
        cli_done(&c);
        const char *const *tables[] = {CLI_ARGUMENTS("status"), CLI_ARGUMENTS("models")};
        for (size_t k = 0; k < 2; k++) {
            cli_run(&c, 0, s->daemon.socket, &options, tables[k]);
            cli_assert_part(cli_text(&c), "\033[1m", table[i].has, __FILE__, __LINE__);
            cli_assert_part(cli_text(&c), "\033", table[i].has, __FILE__, __LINE__);
            cli_done(&c);
        }
    }
    scene_stop(s);
}

static void test_a_dumb_terminal_sees_no_sign(void **state)
{
    struct cli_options dumb = terminal;
    struct scene *s = *state;
    struct cli c, other;

    dumb.environment = CLI_ARGUMENTS("TERM=dumb");
    scene_start(s, wait_for_go, NULL, NULL);
    cli_start(&c, s->daemon.socket, &dumb, CREATE("--n", "1"));
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    cli_start(&other, s->daemon.socket, &terminal, CREATE("--n", "1"));
    cli_await_text(&other, "waiting, 1 s");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&c, 0);
    assert_string_equal(cli_text(&c), "here\n");
    cli_wait_exit(&other, 0);
    cli_done(&c);
    cli_done(&other);
    scene_stop(s);
}

/* ---- Text that is up to something ---- */

#define EVIL_JSON "\\u001b[31mred\\u009b0m\\u007f\\u0007\\r\\ttab\\u00e9\\n"
#define EVIL_RAW                                                                                   \
    "\033[31mred\xc2\x9b"                                                                          \
    "0m\x7f\a\r\ttab\xc3\xa9\n"
#define EVIL_SHOWN "?[31mred?0m???\ttab\xc3\xa9\n"

static void be_evil(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true"))
            fake_answer(c, 200, "application/json", "", FAKE_LAST(EVIL_JSON));
        else if (!fake_stream_begin(c) || !fake_event(c, FAKE_LAST(EVIL_JSON)) ||
                 !fake_stream_done(c))
            return;
    }
}

static void test_text_is_escaped_on_a_terminal_and_raw_in_a_pipe(void **state)
{
    struct scene *s = *state;
    const char *const *commands[] = {CREATE("--output", "text"),
                                     CREATE("--output", "text", "--stream")};
    struct cli c;

    scene_start(s, be_evil, NULL, NULL);
    for (size_t i = 0; i < 2; i++) {
        cli_run(&c, 0, s->daemon.socket, &only_out, commands[i]);
        assert_string_equal(cli_text(&c), EVIL_SHOWN);
        cli_done(&c);
        cli_run(&c, 0, s->daemon.socket, NULL, commands[i]);
        assert_string_equal(cli_text(&c), EVIL_RAW);
        cli_done(&c);
    }
    scene_stop(s);
}

static void test_json_is_harmless_on_a_terminal_and_means_the_same(void **state)
{
    struct scene *s = *state;
    struct cli c;

    scene_start(s, be_evil, NULL, NULL);
    for (size_t i = 0; i < 2; i++) {
        cli_run(&c, 0, s->daemon.socket, i ? &only_out : NULL, CREATE("--output", "json"));
        json_object *json = json_tokener_parse(cli_text(&c)), *choices, *text;
        assert_true(json_object_object_get_ex(json, "choices", &choices));
        assert_true(
            json_object_object_get_ex(json_object_array_get_idx(choices, 0), "text", &text));
        assert_string_equal(json_object_get_string(text), EVIL_RAW);
        json_object_put(json);
        cli_assert_lacks(cli_text(&c), "\033");
        cli_assert_part(cli_text(&c), "\xc2\x9b", i == 0, __FILE__, __LINE__);
        cli_assert_lacks(cli_text(&c), "\x7f");
        cli_done(&c);
    }
    scene_stop(s);
}

/* ---- Several choices ---- */

#define PART(index, text, reason)                                                                  \
    "{\"index\":" #index ",\"text\":\"" text "\",\"logprobs\":null,\"finish_reason\":" reason "}"
#define CHUNK(choices) "{\"id\":\"c\",\"object\":\"text_completion\",\"choices\":[" choices "]}"

static void tell_two(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true"))
            fake_answer(c, 200, "application/json", "",
                        CHUNK(PART(0, "one\\nline", "\"stop\"") "," PART(1, "two\\n", "\"stop\"")));
        else if (!fake_stream_begin(c) || !fake_event(c, CHUNK(PART(0, "on", "null"))) ||
                 !fake_event(c, CHUNK(PART(0, "e", "null"))) ||
                 !fake_event(c, CHUNK(PART(1, "two\\n", "null"))) ||
                 !fake_event(c, CHUNK(PART(0, "more", "\"stop\""))) ||
                 !fake_event(c, CHUNK(PART(1, "", "\"stop\""))) || !fake_stream_done(c))
            return;
    }
}

static void assert_prints(struct scene *s, const char *text, const char *const *arguments)
{
    struct cli c;

    for (size_t i = 0; i < 2; i++) {
        cli_run(&c, 0, s->daemon.socket, i ? &only_out : NULL, arguments);
        assert_string_equal(cli_text(&c), text);
        cli_done(&c);
    }
}

static void test_several_choices_are_labelled(void **state)
{
    struct scene *s = *state;

    scene_start(s, tell_two, NULL, NULL);
    assert_prints(s, "[0] one\nline\n[1] two\n", CREATE("--output", "text", "--n", "2"));
    assert_prints(s, "[0] one\n[1] two\n[0] more\n",
                  CREATE("--output", "text", "--n", "2", "--stream"));
    /* That there are several is known from the prompts, too. */
    assert_prints(s, "[0] one\n[1] two\n[0] more\n",
                  CREATE("--output", "text", "--prompt", "b", "--stream"));
    assert_prints(s, "[0] one\n[1] two\n[0] more\n",
                  CLI_ARGUMENTS("create", "--model", "m", "--prompt", "[\"a\",\"b\"]", "--output",
                                "text", "--stream"));
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_a_wait_is_shown_and_gone_before_the_answer),
        scene_test(test_a_wait_is_only_shown_on_a_terminal),
        scene_test(test_a_wait_that_fails_leaves_no_sign_in_the_error),
        scene_test(test_what_comes_at_once_shows_no_sign),
        scene_test(test_a_terminal_gets_streamed_text_and_a_pipe_json),
        scene_test(test_text_is_there_before_its_end),
        scene_test(test_a_stream_to_elsewhere_shows_how_far_it_is),
        scene_test(test_usage_is_said_at_the_end),
        scene_test(test_colours_are_only_where_they_are_wanted),
        scene_test(test_a_dumb_terminal_sees_no_sign),
        scene_test(test_text_is_escaped_on_a_terminal_and_raw_in_a_pipe),
        scene_test(test_json_is_harmless_on_a_terminal_and_means_the_same),
        scene_test(test_several_choices_are_labelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
