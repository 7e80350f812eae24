/* One choice: where it stops, what it holds back, which bytes become which text. */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>

#include "choice.h"

/* A text that leaves no choice: every token has one successor. */
static const char text[] = "one two three \xc3\xa9t\xc3\xa9 four five six seven eight nine ten.";

static int make_tools(void **state)
{
    struct choice_tools *t = calloc(1, sizeof *t);
    struct model *m;

    if (!t || model_new(text, strlen(text), &m) < 0)
        return -1;
    size_t n = model_vocabulary(m)->n;
    t->model = m;
    t->probabilities = calloc(n, sizeof *t->probabilities);
    t->logits = calloc(n, sizeof *t->logits);
    *state = t;
    return t->probabilities && t->logits ? sampler_new(n, &t->sampler) : -1;
}

static int free_tools(void **state)
{
    struct choice_tools *t = *state;

    model_free((struct model *)t->model);
    sampler_free(t->sampler);
    free(t->probabilities);
    free(t->logits);
    free(t);
    return 0;
}

/* What was given out, and in how many pieces. */
struct output {
    char text[512];
    size_t len, n_pieces, n_tokens, offsets[64];
    const char *finish_reason;
};

static void run(const struct choice_tools *tools, const struct request *request,
                const struct tokens *prompt, struct output *ret)
{
    static const struct suffix none = {0};
    struct choice c;

    *ret = (struct output){0};
    assert_int_equal(choice_init(&c, tools, request, &none, prompt, 1, 0), 0);
    while (!c.finish_reason) {
        struct choice_piece piece;
        assert_int_equal(choice_step(&c, tools), 0);
        assert_int_equal(choice_take(&c, &piece), 0);
        assert_true(ret->len + piece.len < sizeof ret->text);
        memcpy(ret->text + ret->len, piece.text, piece.len);
        ret->len += piece.len;
        ret->n_pieces += piece.len > 0;
        for (size_t i = 0; i < piece.n_tokens; i++)
            ret->offsets[ret->n_tokens++] = piece.offsets[i];
        choice_piece_done(&piece);
    }
    ret->finish_reason = c.finish_reason;
    choice_done(&c);
}

static struct tokens encode(const struct choice_tools *tools, const char *prompt)
{
    struct tokens tokens = {0};

    assert_int_equal(
        vocabulary_encode(model_vocabulary(tools->model), prompt, strlen(prompt), &tokens), 0);
    return tokens;
}

/* With temperature 0. stops: NULL-terminated. */
static void run_greedy(void **state, const char *prompt, int64_t max_tokens,
                       const char *const *stops, struct output *ret)
{
    struct request request = {.n = 1, .best_of = 1, .max_tokens = max_tokens, .logprobs = 0};
    struct tokens tokens = encode(*state, prompt);

    for (; stops && *stops; stops++)
        request.stops[request.n_stops++] =
            (struct request_stop){(char *)(uintptr_t)*stops, strlen(*stops)};
    run(*state, &request, &tokens, ret);
    tokens_done(&tokens);
}

static void assert_output(const struct output *o, const char *expected, const char *finish_reason)
{
    assert_int_equal(o->len, strlen(expected));
    assert_memory_equal(o->text, expected, o->len);
    assert_string_equal(o->finish_reason, finish_reason);
}

static void test_it_ends_with_the_text_or_at_the_limit(void **state)
{
    struct output o;

    run_greedy(state, "one two", 100, NULL, &o);
    assert_output(&o, text + strlen("one two"), "stop");
    run_greedy(state, "one two", 2, NULL, &o);
    assert_output(&o, " three \xc3\xa9t\xc3\xa9", "length");
    run_greedy(state, "one two", 0, NULL, &o);
    assert_output(&o, "", "length");
}

static void test_stops_cut_wherever_they_begin_and_end(void **state)
{
    static const struct {
        const char *stops[4], *expected;
    } cases[] = {
        {{" five"}, " three \xc3\xa9t\xc3\xa9 four"},                /* a token */
        {{"iv"}, " three \xc3\xa9t\xc3\xa9 four f"},                 /* inside of one */
        {{"ur five s"}, " three \xc3\xa9t\xc3\xa9 fo"},              /* over three */
        {{"\xc3\xa9t"}, " three "},                                  /* not ASCII */
        {{"six", "four", "nine"}, " three \xc3\xa9t\xc3\xa9 "},      /* the first to come */
        {{"four f", "our", "r five"}, " three \xc3\xa9t\xc3\xa9 f"}, /* of overlapping ones, too */
        {{" three"}, ""},                                            /* at once */
        {{"ee fx", "ee \xc3\xa9t\xc3\xa9 s", "."},                   /* begun in vain */
         " three \xc3\xa9t\xc3\xa9 four five six seven eight nine ten"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct output o;
        run_greedy(state, "one two", 100, cases[i].stops, &o);
        assert_output(&o, cases[i].expected, "stop");
    }
}

static void test_stops_are_not_looked_for_in_the_prompt(void **state)
{
    struct request request = {.n = 1,
                              .best_of = 1,
                              .max_tokens = 2,
                              .logprobs = -1,
                              .echo = true,
                              .n_stops = 1,
                              .stops = {{(char *)(uintptr_t) "wo th", 5}}};
    struct tokens tokens = encode(*state, "one two");
    struct output o;

    run(*state, &request, &tokens, &o);
    assert_output(&o, "one two three \xc3\xa9t\xc3\xa9", "length");
    tokens_done(&tokens);
}

static void test_what_may_become_a_stop_is_held_back_until_the_end(void **state)
{
    static const char *const stops[] = {"four five six sevenX", NULL};
    struct output with, without;

    run_greedy(state, "one two", 7, NULL, &without);
    run_greedy(state, "one two", 7, stops, &with);
    assert_int_equal(without.len, with.len);
    assert_memory_equal(without.text, with.text, with.len);
    assert_int_equal(without.n_pieces, 7);
    assert_int_equal(with.n_pieces, 4); /* "four" to "eight" in one */
    assert_int_equal(with.n_tokens, 7);
    assert_memory_equal(with.offsets, without.offsets, 7 * sizeof *with.offsets);
}

static void test_tokens_behind_a_stop_are_not_given_out(void **state)
{
    static const char *const stops[] = {"ur five s", NULL};
    struct output o;

    run_greedy(state, "one two", 100, stops, &o);
    assert_int_equal(o.n_tokens, 3); /* three, ete, the beginning of four */
}

static void test_offsets_count_characters(void **state)
{
    static const size_t expected[] = {0, 6, 10, 15};
    struct output o;

    run_greedy(state, "one two", 4, NULL, &o);
    assert_int_equal(o.n_tokens, 4);
    assert_memory_equal(o.offsets, expected, sizeof expected);
}

/* Prompts of token ids are bytes of any kind; their echo is text all the same. */
static void test_bytes_that_are_no_characters_are_replaced(void **state)
{
    static const struct {
        uint32_t ids[8];
        size_t n;
        const char *expected;
        size_t offsets[8];
    } cases[] = {
        {{0xf0, 0x9f, 0x98, 0x8d, 'x'}, 5, "\xf0\x9f\x98\x8dx", {0, 0, 0, 0, 1}},
        {{0xf0, 0x9f, 'x'}, 3, "\xef\xbf\xbd\xef\xbf\xbdx", {0, 1, 2}},
        {{0xff, 'x', 0xc3}, 3, "\xef\xbf\xbdx\xef\xbf\xbd", {0, 1, 2}},
        {{0xed, 0xa0, 0x80}, 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", {0, 1, 2}},
        {{0xc0, 0xaf}, 2, "\xef\xbf\xbd\xef\xbf\xbd", {0, 1}},
        {{VOCABULARY_END, 'x'}, 2, "<|endoftext|>x", {0, 13}},
    };
    struct request request = {.n = 1, .best_of = 1, .logprobs = 0, .echo = true};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokens prompt = {(uint32_t *)(uintptr_t)cases[i].ids, cases[i].n, cases[i].n};
        struct output o;
        run(*state, &request, &prompt, &o);
        assert_output(&o, cases[i].expected, "length");
        assert_int_equal(o.n_tokens, cases[i].n);
        assert_memory_equal(o.offsets, cases[i].offsets, cases[i].n * sizeof *o.offsets);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_ends_with_the_text_or_at_the_limit),
        cmocka_unit_test(test_stops_cut_wherever_they_begin_and_end),
        cmocka_unit_test(test_stops_are_not_looked_for_in_the_prompt),
        cmocka_unit_test(test_what_may_become_a_stop_is_held_back_until_the_end),
        cmocka_unit_test(test_tokens_behind_a_stop_are_not_given_out),
        cmocka_unit_test(test_offsets_count_characters),
        cmocka_unit_test(test_bytes_that_are_no_characters_are_replaced),
    };

    return cmocka_run_group_tests(tests, make_tools, free_tools);
}
