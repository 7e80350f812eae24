/* completionctl create --jsonl: many requests, their answers in order, several at once. */
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

enum { WINDOW = 4096 };

/* ---- Upstreams ---- */

struct crowd {
    atomic_int n, peak;
};

static void serve_crowd(struct fake_connection *c)
{
    struct crowd *crowd = (struct crowd *)c->user;

    while (fake_read_request(c)) {
        int n = atomic_fetch_add(&crowd->n, 1) + 1, peak = atomic_load(&crowd->peak);
        while (n > peak && !atomic_compare_exchange_weak(&crowd->peak, &peak, n))
            ;
        bool ok = batch_echo(c);
        atomic_fetch_sub(&crowd->n, 1);
        if (!ok)
            return;
    }
}

static void assert_asked(struct scene *s, const char *part, bool expected)
{
    char *body = fake_last_body(s->fake);

    cli_assert_part(body, part, expected, __FILE__, __LINE__);
    free(body);
}

/* ---- Order ---- */

static void test_answers_are_in_order_whatever_is_slow(void **state)
{
    struct cli_options options = {
        .in =
            "{\"prompt\":\"a\"}\n{\"prompt\":\"hang\"}\n{\"prompt\":\"c\"}\n{\"prompt\":\"d\"}\n"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "2"));
    /* All others have been asked while one hangs. */
    assert_true(fake_await(s->fake, FAKE_STEP, 4));
    cli_await_text(&c, "\n");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&c, 0);
    batch_assert_texts(cli_text(&c), 4, (const char *const[]){"a", "hang", "c", "d"});
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
    scene_stop(s);
}

static void test_jobs_are_so_many_at_once(void **state)
{
    static const char *const jobs[] = {"1", "3", "7"};
    struct scene *s = *state;
    struct crowd crowd = {0};
    char in[1024] = "";
    struct cli_options options = {.in = in};
    struct cli c;

    for (int i = 0; i < 7; i++)
        strcat(in, "{\"prompt\":\"hang\"}\n");
    for (int i = 0; i < 13; i++)
        strcat(in, "{\"prompt\":\"x\"}\n");
    for (size_t i = 0; i < 3; i++) {
        atomic_store(&crowd.peak, 0);
        scene_start(s, serve_crowd, &crowd, NULL);
        cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", jobs[i]));
        assert_true(fake_await(s->fake, FAKE_STEP, (unsigned)atoi(jobs[i])));
        fake_mark(s->fake, FAKE_GO);
        cli_wait_exit(&c, 0);
        assert_int_equal(atomic_load(&crowd.peak), atoi(jobs[i]));
        assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 20);
        /* On one connection. */
        assert_true(fake_count(s->fake, FAKE_ACCEPTED) <= 7);
        cli_done(&c);
        scene_stop(s);
        scene_teardown(state);
        scene_setup(state);
        s = *state;
    }
}

/* One that hangs holds up what is asked beyond what may wait for it. */
static void test_what_waits_is_bounded(void **state)
{
    enum { N = WINDOW + 1000 };
    struct scene *s = *state;
    struct cli_options options = {0};
    struct cli c;
    char *in;
    size_t size;
    FILE *f = open_memstream(&in, &size);

    fputs("{\"prompt\":\"hang\"}\n", f);
    for (int i = 1; i < N; i++)
        fprintf(f, "{\"prompt\":\"x%d\"}\n", i);
    fclose(f);
    options.in = in;
    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "4"));
    assert_true(fake_await(s->fake, FAKE_REQUESTED, WINDOW));
    /* Nothing is written, and no more is asked: the daemon would have passed it on by now. */
    for (int i = 0; i < 100; i++)
        scene_assert_serving(s);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), WINDOW);
    assert_string_equal(cli_text(&c), "");
    fake_mark(s->fake, FAKE_GO);
    cli_wait_exit(&c, 0);
    json_object *all = batch_results(cli_text(&c));
    assert_int_equal(json_object_array_length(all), N);
    for (size_t i = 1; i < N; i++) {
        char text[16];
        snprintf(text, sizeof text, "x%zu", i);
        assert_string_equal(batch_text_of(all, i), text);
    }
    json_object_put(all);
    cli_done(&c);
    scene_stop(s);
    free(in);
}

/* A line is asked when it comes, not when the input ends. */
static void test_input_may_come_slowly_and_never_end(void **state)
{
    struct scene *s = *state;
    struct cli_options options = {0};
    struct cli c;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    options.in_fd = fds[0];
    scene_start(s, batch_serve, NULL, NULL);
    cli_start(&c, s->daemon.socket, &options, BATCH("--jobs", "4"));
    close(fds[0]);
    assert_int_equal(write(fds[1], "{\"prompt\":\"first\"}\n{\"pro", 24), 24);
    cli_await_text(&c, "first");
    assert_int_equal(write(fds[1], "mpt\":\"second\"}\n", 15), 15);
    cli_await_text(&c, "second");
    /* The last one needs no end of its own. */
    assert_int_equal(write(fds[1], "{\"prompt\":\"third\"}", 18), 18);
    close(fds[1]);
    cli_wait_exit(&c, 0);
    batch_assert_texts(cli_text(&c), 3, (const char *const[]){"first", "second", "third"});
    cli_done(&c);
    scene_stop(s);
}

static void test_no_requests_are_no_answers(void **state)
{
    static const char *const inputs[] = {"", "\n", " \r\n\n\t\n", "\xef\xbb\xbf"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        struct cli_options options = {.in = inputs[i]};
        cli_run(&c, 0, s->daemon.socket, *inputs[i] ? &options : NULL, BATCH("--jobs", "4"));
        assert_string_equal(cli_text(&c), "");
        assert_string_equal(cli_errors(&c), "");
        cli_done(&c);
    }
    scene_stop(s);
}

/* ---- Lines ---- */

static void test_a_line_becomes_a_request(void **state)
{
    static const struct {
        const char *line, *option, *value, *has[6], *lacks[3];
    } table[] = {
        {"{\"prompt\":\"p\"}", NULL, NULL, {"\"prompt\":\"p\"", "\"model\":\"m\""}, {"max_tokens"}},
        {"{\"prompt\":\"p\",\"model\":\"m2\"}", NULL, NULL, {"\"model\":\"m2\""}, {"\"m\""}},
        {"{\"prompt\":[\"a\",\"b\"]}", NULL, NULL, {"\"prompt\":[\"a\",\"b\"]"}, {NULL}},
        {"{\"prompt\":[1,2]}", NULL, NULL, {"\"prompt\":[1,2]"}, {NULL}},
        {"{\"prompt\":[[1],[2,3]]}", NULL, NULL, {"\"prompt\":[[1],[2,3]]"}, {NULL}},
        {"{\"prompt\":\"a\\u0000\\u00e9\\n\"}",
         NULL,
         NULL,
         {"\"prompt\":\"a\\u0000\xc3\xa9\\n\""},
         {NULL}},
        {"{\"max_tokens\":3,\"n\":2,\"best_of\":4,\"logprobs\":1,\"seed\":-9007199254740993}",
         NULL,
         NULL,
         {"\"max_tokens\":3", "\"n\":2", "\"best_of\":4", "\"logprobs\":1",
          "\"seed\":-9007199254740993"},
         {NULL}},
        {"{\"temperature\":0.5,\"top_p\":1,\"frequency_penalty\":-1,\"presence_penalty\":1e-1}",
         NULL,
         NULL,
         {"\"temperature\":0.5", "\"top_p\":1", "\"frequency_penalty\":-1",
          "\"presence_penalty\":0.1"},
         {NULL}},
        {"{\"echo\":false,\"suffix\":\"s\",\"user\":\"u\",\"stop\":\"e\",\"logit_bias\":{\"5\":-1."
         "5}}",
         NULL,
         NULL,
         {"\"echo\":false", "\"suffix\":\"s\"", "\"user\":\"u\"", "\"stop\":\"e\"",
          "\"logit_bias\":{\"5\":-1.5}"},
         {NULL}},
        {"{\"stop\":[\"a\",\"b\"],\"stream\":false}",
         NULL,
         NULL,
         {"\"stop\":[\"a\",\"b\"]"},
         {"\"stream\":true"}},
        /* The API's own batches, and the id alone. */
        {"{\"custom_id\":\"i\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":"
         "{\"prompt\":\"p\",\"model\":\"b\"}}",
         NULL,
         NULL,
         {"\"prompt\":\"p\"", "\"model\":\"b\""},
         {"custom_id", "body", "method"}},
        {"{\"custom_id\":\"i\",\"prompt\":\"p\"}", NULL, NULL, {"\"prompt\":\"p\""}, {"custom_id"}},
        /* Options are for what a line lacks. */
        {"{\"prompt\":\"p\"}", "--max-tokens", "7", {"\"max_tokens\":7"}, {NULL}},
        {"{\"prompt\":\"p\",\"max_tokens\":8}", "--max-tokens", "7", {"\"max_tokens\":8"}, {NULL}},
        {"{\"prompt\":\"p\",\"max_tokens\":null}",
         "--max-tokens",
         "7",
         {"\"prompt\""},
         {"max_tokens"}},
        {"{\"prompt\":\"p\"}", "--stop", "x", {"\"stop\":\"x\""}, {NULL}},
        {"{\"prompt\":\"p\",\"stop\":\"y\"}", "--stop", "x", {"\"stop\":\"y\""}, {"\"x\""}},
        {"{\"prompt\":\"p\"}", "--logit-bias", "{\"1\":2}", {"\"logit_bias\":{\"1\":2}"}, {NULL}},
        {"{\"prompt\":\"p\",\"logit_bias\":{\"3\":4}}",
         "--logit-bias",
         "{\"1\":2}",
         {"\"logit_bias\":{\"3\":4}"},
         {NULL}},
        /* What the API does not have goes through. */
        {"{\"prompt\":\"p\",\"top_k\":3,\"x\":{\"y\":[1,\"\\u00e9\"]}}",
         NULL,
         NULL,
         {"\"top_k\":3", "\"x\":{\"y\":[1,\"\\u00e9\"]}"},
         {NULL}},
        {"{\"prompt\":\"p\",\"extra_body\":{\"min_p\":0.1}}",
         NULL,
         NULL,
         {"\"min_p\":0.1"},
         {"extra_body"}},
        {"{\"prompt\":\"p\",\"top_k\":3}",
         "--extra-body",
         "{\"top_k\":4,\"min_p\":0.5}",
         {"\"top_k\":3", "\"min_p\":0.5"},
         {"\"top_k\":4"}},
        {"{\"prompt\":\"p\"}", "--extra-body", "{\"top_k\":4}", {"\"top_k\":4"}, {NULL}},
        /* What an editor may leave. */
        {"\xef\xbb\xbf{\"prompt\":\"p\"}\r", NULL, NULL, {"\"prompt\":\"p\""}, {NULL}},
    };
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, "validate = no");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct cli_options options = {.in = table[i].line};
        cli_run(&c, 0, s->daemon.socket, &options, BATCH(table[i].option, table[i].value));
        for (size_t k = 0; k < 6 && table[i].has[k]; k++)
            assert_asked(s, table[i].has[k], true);
        for (size_t k = 0; k < 3 && table[i].lacks[k]; k++)
            assert_asked(s, table[i].lacks[k], false);
        cli_done(&c);
    }
    scene_stop(s);
}

static void test_what_is_wrong_with_a_line_is_its_own_error(void **state)
{
    static const struct {
        const char *line, *param, *message;
    } table[] = {
        {"nonsense", NULL, "not JSON, at byte 0: "},
        {"[]", NULL, "a JSON object is wanted"},
        {"\"text\"", NULL, "a JSON object is wanted"},
        {"{\"prompt\":\"CANARY\"", NULL, "not JSON, at byte 18: cut short"},
        {"{\"prompt\":\"CANARY\"} {}", NULL, "not JSON, at byte 20: "},
        {"{\"prompt\":\"\xff\"}", NULL, "not valid UTF-8"},
        {"{\"prompt\":3}", "prompt", "a text, or an array"},
        {"{\"prompt\":[]}", "prompt", "a text, or an array"},
        {"{\"prompt\":[1,\"CANARY\"]}", "prompt", "a text, or an array"},
        {"{\"model\":7}", "model", "a text is wanted"},
        {"{\"max_tokens\":\"7\"}", "max_tokens", "a whole number is wanted"},
        {"{\"max_tokens\":1.5}", "max_tokens", "a whole number is wanted"},
        {"{\"temperature\":\"warm\"}", "temperature", "a number is wanted"},
        {"{\"seed\":1e30}", "seed", "64 bits"},
        {"{\"echo\":1}", "echo", "true or false"},
        {"{\"logit_bias\":{\"a\":1}}", "logit_bias", "token ids"},
        {"{\"stop\":[1]}", "stop", "a text, or an array"},
        {"{\"stream\":true}", "stream", "whole answers"},
        {"{\"stream_options\":{}}", "stream_options", "whole answers"},
        {"{\"extra_body\":[]}", "extra_body", "an object"},
        {"{\"url\":\"/v1/chat/completions\",\"body\":{}}", "url", "only /v1/completions"},
        {"{\"custom_id\":1,\"body\":\"{\\\"n\\\":1}\"}", "body", "an object is wanted"},
        {"{\"body\":{\"n\":\"x\"}}", "n", "a whole number is wanted"},
    };
    enum { N = sizeof table / sizeof *table };
    struct scene *s = *state;
    char in[4096] = "";
    struct cli_options options = {.in = in};
    struct cli c;

    for (size_t i = 0; i < N; i++)
        sprintf(in + strlen(in), "%s\n{\"prompt\":\"good%zu\",\"custom_id\":%zu}\n", table[i].line,
                i, i);
    scene_start(s, batch_serve, NULL, NULL);
    cli_run(&c, 8, s->daemon.socket, &options, BATCH("--jobs", "2"));
    json_object *all = batch_results(cli_text(&c));
    assert_int_equal(json_object_array_length(all), 2 * N);
    for (size_t i = 0; i < N; i++) {
        char good[16];
        snprintf(good, sizeof good, "good%zu", i);
        assert_string_equal(batch_text_of(all, 2 * i), "");
        batch_assert_error(all, 2 * i, "status", "INVALID_ARGUMENT");
        batch_assert_error(all, 2 * i, "reason", "INVALID_REQUEST");
        assert_false(
            json_object_get_boolean(batch_member(batch_error_of(all, 2 * i), "retryable")));
        if (table[i].param)
            batch_assert_error(all, 2 * i, "param", table[i].param);
        const char *said =
            json_object_get_string(batch_member(batch_error_of(all, 2 * i), "message"));
        cli_assert_has(said, table[i].message);
        assert_string_equal(batch_text_of(all, 2 * i + 1), good);
        json_object *id = batch_member(json_object_array_get_idx(all, 2 * i + 1), "custom_id");
        assert_int_equal(json_object_get_int64(id), i);
    }
    json_object_put(all);
    cli_assert_lacks(cli_text(&c), "CANARY");
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), N);
    cli_assert_has(cli_errors(&c), "23 answered, 23 failed; 46 prompt tokens, 69 completion");
    cli_done(&c);
    scene_stop(s);
}

static void test_a_model_has_to_come_from_somewhere(void **state)
{
    struct cli_options options = {.in = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"model\":\"m\"}"};
    struct scene *s = *state;
    struct cli c;

    scene_start(s, batch_serve, NULL, NULL);
    cli_run(&c, 8, s->daemon.socket, &options, CLI_ARGUMENTS("create", "--jsonl", "-"));
    json_object *all = batch_results(cli_text(&c));
    batch_assert_error(all, 0, "param", "model");
    assert_string_equal(batch_text_of(all, 1), "b");
    json_object_put(all);
    cli_done(&c);
    scene_stop(s);
}

static void test_an_endless_line_is_one_error(void **state)
{
    enum { SIZE = 34 << 20 };
    struct scene *s = *state;
    char *in = malloc(2 * SIZE + 100);
    struct cli_options options = {.in = in};
    struct cli c;

    assert_non_null(in);
    memset(in, 'x', 2 * SIZE);
    strcpy(in + SIZE, "\n{\"prompt\":\"a\"}\n");
    in[strlen(in)] = 'x';
    strcpy(in + 2 * SIZE, "");
    scene_start(s, batch_serve, NULL, NULL);
    cli_run(&c, 8, s->daemon.socket, &options, BATCH("--jobs", "2"));
    json_object *all = batch_results(cli_text(&c));
    assert_int_equal(json_object_array_length(all), 3);
    for (size_t i = 0; i < 3; i += 2)
        batch_assert_error(all, i, "message", "a line has at most 32 MiB");
    assert_string_equal(batch_text_of(all, 1), "a");
    json_object_put(all);
    cli_done(&c);
    scene_stop(s);
    free(in);
}

static void test_an_id_comes_back_as_it_was(void **state)
{
    static const char *const ids[] = {"\"a\\u0041\\n\"", "7", "1e3", "{\"x\":[1, 2]}", "false"};
    struct scene *s = *state;
    struct cli c;
    char in[256], expected[256];
    struct cli_options options = {.in = in};

    scene_start(s, batch_serve, NULL, NULL);
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        snprintf(in, sizeof in, "{\"custom_id\":%s,\"body\":{\"prompt\":\"p\"}}", ids[i]);
        snprintf(expected, sizeof expected, "{\"index\":0,\"custom_id\":%s,\"response\":{", ids[i]);
        cli_run(&c, 0, s->daemon.socket, &options, BATCH("--jobs", "1"));
        cli_assert_has(cli_text(&c), expected);
        cli_done(&c);
    }
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_answers_are_in_order_whatever_is_slow),
        scene_test(test_jobs_are_so_many_at_once),
        scene_test(test_what_waits_is_bounded),
        scene_test(test_input_may_come_slowly_and_never_end),
        scene_test(test_no_requests_are_no_answers),
        scene_test(test_a_line_becomes_a_request),
        scene_test(test_what_is_wrong_with_a_line_is_its_own_error),
        scene_test(test_a_model_has_to_come_from_somewhere),
        scene_test(test_an_endless_line_is_one_error),
        scene_test(test_an_id_comes_back_as_it_was),
    };

    return cmocka_run_group_tests_name("cli batch", tests, NULL, NULL);
}
