/* Words, ids and probabilities. */
#include "fixture.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "default_text.h"
#include "model.h"

static int make_model(void **state)
{
    return model_new(default_text, strlen(default_text), (struct model **)state);
}

static int free_model(void **state)
{
    model_free(*state);
    return 0;
}

static struct tokens encode(const struct model *m, const char *text, size_t len)
{
    struct tokens tokens = {0};

    assert_int_equal(vocabulary_encode(model_vocabulary(m), text, len, &tokens), 0);
    return tokens;
}

static void assert_round_trip(const struct model *m, const char *text, size_t len)
{
    struct tokens tokens = encode(m, text, len);
    size_t done = 0;

    for (size_t i = 0; i < tokens.n; i++) {
        size_t n;
        const char *bytes = vocabulary_bytes(model_vocabulary(m), tokens.ids[i], &n);
        assert_true(n <= len - done);
        assert_memory_equal(bytes, text + done, n);
        done += n;
    }
    assert_int_equal(done, len);
    tokens_done(&tokens);
}

static void test_any_text_can_be_read_back(void **state)
{
    static const char nul[] = "The miller\0 said \0";
    char bytes[1024];

    assert_round_trip(*state, nul, sizeof nul);
    assert_round_trip(*state, "", 0);
    assert_round_trip(*state, "  two  spaces\n\ttab, na\xc3\xafve \xf0\x9f\x98\x8d<|endoftext|>x",
                      45);
    for (int i = 0; i < 1024; i++)
        bytes[i] = (char)(i * 167 + i / 256);
    assert_round_trip(*state, bytes, sizeof bytes);
}

static void test_known_words_are_one_token_and_others_are_bytes(void **state)
{
    struct tokens tokens = encode(*state, "The miller, zzz", 15);

    assert_int_equal(tokens.n, 2 + 1 + 4);
    assert_true(tokens.ids[0] > VOCABULARY_END && tokens.ids[1] > VOCABULARY_END);
    assert_int_equal(tokens.ids[2], ',');
    assert_int_equal(tokens.ids[6], 'z');
    tokens_done(&tokens);
}

static void test_end_of_text_is_a_token(void **state)
{
    struct tokens tokens = encode(*state, VOCABULARY_END_TEXT, strlen(VOCABULARY_END_TEXT));

    assert_int_equal(tokens.n, 1);
    assert_int_equal(tokens.ids[0], VOCABULARY_END);
    tokens_done(&tokens);
}

/* Whatever the context: known, unknown, long, none. */
static void test_probabilities_are_above_zero_and_sum_to_one(void **state)
{
    static const char *const contexts[] = {"",      "The",           "Once upon a time there was a",
                                           "zq zq", "the miller \n", "zebra said the"};
    const struct model *m = *state;
    size_t n_words = model_vocabulary(m)->n;
    double *p = calloc(n_words, sizeof *p);

    assert_non_null(p);
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        struct tokens tokens = encode(m, contexts[i], strlen(contexts[i]));
        double sum = 0;
        model_predict(m, tokens.ids, tokens.n, p);
        for (uint32_t id = 0; id < n_words; id++) {
            assert_true(p[id] > 0);
            assert_true(fabs(p[id] - model_probability(m, tokens.ids, tokens.n, id)) < 1e-12);
            sum += p[id];
        }
        assert_true(fabs(sum - 1) < 1e-9);
        tokens_done(&tokens);
    }
    free(p);
}

static void test_what_the_text_often_says_is_likely(void **state)
{
    const struct model *m = *state;
    struct tokens tokens = encode(m, "Once upon a time there", 22);

    assert_int_equal(tokens.n, 5);
    assert_true(model_probability(m, tokens.ids, 4, tokens.ids[4]) > 0.9);
    assert_true(model_probability(m, tokens.ids, 4, tokens.ids[0]) < 0.01);
    tokens_done(&tokens);
}

static void test_a_text_without_words_teaches_nothing(void **state)
{
    struct model *m = NULL;

    (void)state;
    assert_int_equal(model_new("", 0, &m), -EINVAL);
    assert_int_equal(model_new(" \n\n \n", 5, &m), -EINVAL);
    assert_null(m);
}

static void test_counts_decide_in_a_text_of_four_words(void **state)
{
    static const char text[] = "a b\n\na b\n\na\nc\n";
    struct model *m = NULL;

    (void)state;
    assert_int_equal(model_new(text, strlen(text), &m), 0);
    struct tokens tokens = encode(m, "a b c", 5);
    assert_int_equal(tokens.n, 3);
    double b = model_probability(m, tokens.ids, 1, tokens.ids[1]);
    double c = model_probability(m, tokens.ids, 1, tokens.ids[2]);
    assert_true(b > 1.7 * c && c > 0.2);
    assert_true(model_probability(m, tokens.ids, 2, VOCABULARY_END) > 0.8);
    assert_true(model_probability(m, NULL, 0, tokens.ids[0]) > 0.8);
    tokens_done(&tokens);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_text_can_be_read_back),
        cmocka_unit_test(test_known_words_are_one_token_and_others_are_bytes),
        cmocka_unit_test(test_end_of_text_is_a_token),
        cmocka_unit_test(test_probabilities_are_above_zero_and_sum_to_one),
        cmocka_unit_test(test_what_the_text_often_says_is_likely),
        cmocka_unit_test(test_a_text_without_words_teaches_nothing),
        cmocka_unit_test(test_counts_decide_in_a_text_of_four_words),
    };

    return cmocka_run_group_tests(tests, make_model, free_model);
}
