/* UTF-8: the table that Markus Kuhn's stress test made known, all code points, cuts and repairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "utf8.h"

#define FFFD "\xef\xbf\xbd"

struct sequence {
    const char *data;
    size_t len, valid; /* bytes that are valid from the front */
    const char *repaired;
};

#define GOOD(text)                                                                                 \
    {                                                                                              \
        text, sizeof(text) - 1, sizeof(text) - 1, text                                             \
    }
#define BAD(text, valid, repaired)                                                                 \
    {                                                                                              \
        text, sizeof(text) - 1, valid, repaired                                                    \
    }

static const struct sequence sequences[] = {
    /* 1, 2: correct text; first and last sequence of each length. */
    GOOD(""),
    GOOD("a"),
    GOOD("\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"),
    GOOD("\x7f"),
    GOOD("\xc2\x80"),
    GOOD("\xdf\xbf"),
    GOOD("\xe0\xa0\x80"),
    GOOD("\xef\xbf\xbf"),
    GOOD("\xf0\x90\x80\x80"),
    GOOD("\xf4\x8f\xbf\xbf"),
    GOOD("\xed\x9f\xbf"),
    GOOD("\xee\x80\x80"),
    GOOD(FFFD),
    GOOD("\xef\xbb\xbf"
         "a"),
    GOOD("\xef\xbf\xbe"),
    GOOD("\xef\xb7\x90"),
    GOOD("12345678\xe2\x82\xac"
         "1234567\xe2\x82\xac"
         "12345678"),
    BAD("\xf4\x90\x80\x80", 0, FFFD FFFD FFFD FFFD),
    BAD("\xf7\xbf\xbf\xbf", 0, FFFD FFFD FFFD FFFD),
    BAD("\xf8\x88\x80\x80\x80", 0, FFFD FFFD FFFD FFFD FFFD),
    BAD("\xfc\x84\x80\x80\x80\x80", 0, FFFD FFFD FFFD FFFD FFFD FFFD),

    /* 3.1: continuations alone. */
    BAD("\x80", 0, FFFD),
    BAD("\xbf", 0, FFFD),
    BAD("\x80\xbf", 0, FFFD FFFD),
    BAD("\x80\xbf\x80\xbf\x80\xbf\x80", 0, FFFD FFFD FFFD FFFD FFFD FFFD FFFD),
    BAD("a\x80z", 1, "a" FFFD "z"),

    /* 3.2, 3.3: beginnings alone. */
    BAD("\xc2 \xdf ", 0, FFFD " " FFFD " "),
    BAD("\xe0 \xef ", 0, FFFD " " FFFD " "),
    BAD("\xf0 \xf4 ", 0, FFFD " " FFFD " "),
    BAD("\xc3", 0, FFFD),
    BAD("\xe2\x82", 0, FFFD),
    BAD("\xe2\x82z", 0, FFFD "z"),
    BAD("\xf0\x9f", 0, FFFD),
    BAD("\xf0\x9f\x98", 0, FFFD),
    BAD("\xf0\x9f\x98z", 0, FFFD "z"),
    BAD("\xe2\x82\xe2\x82\xac", 0, FFFD "\xe2\x82\xac"),
    BAD("\xf0\x9f\x98\xf0\x9f\x98\x80", 0, FFFD "\xf0\x9f\x98\x80"),
    BAD("\xc3\xc3\xa4", 0, FFFD "\xc3\xa4"),

    /* 3.4: all of them in a row. */
    BAD("\xc2\xe0\xa0\xf0\x90\x80\xdf\xef\xbf\xf4\x8f\xbf", 0, FFFD FFFD FFFD FFFD FFFD FFFD),

    /* 3.5: bytes that never are. */
    BAD("\xfe", 0, FFFD),
    BAD("\xff", 0, FFFD),
    BAD("\xfe\xfe\xff\xff", 0, FFFD FFFD FFFD FFFD),
    BAD("12345678\xff", 8, "12345678" FFFD),
    BAD("1234567\xff"
        "9",
        7, "1234567" FFFD "9"),
    BAD("\xf5\x80\x80\x80", 0, FFFD FFFD FFFD FFFD),

    /* 4: overlong. */
    BAD("\xc0\xaf", 0, FFFD FFFD),
    BAD("\xc1\xbf", 0, FFFD FFFD),
    BAD("\xe0\x80\xaf", 0, FFFD FFFD FFFD),
    BAD("\xe0\x9f\xbf", 0, FFFD FFFD FFFD),
    BAD("\xf0\x80\x80\xaf", 0, FFFD FFFD FFFD FFFD),
    BAD("\xf0\x8f\xbf\xbf", 0, FFFD FFFD FFFD FFFD),
    BAD("\xc0\x80", 0, FFFD FFFD),

    /* 5: surrogates, alone and in pairs. */
    BAD("\xed\xa0\x80", 0, FFFD FFFD FFFD),
    BAD("\xed\xaf\xbf", 0, FFFD FFFD FFFD),
    BAD("\xed\xbf\xbf", 0, FFFD FFFD FFFD),
    BAD("\xed\xa0\xbd\xed\xb8\x80", 0, FFFD FFFD FFFD FFFD FFFD FFFD),
    BAD("\xc3\xa4\xed\xa0\x80", 2, "\xc3\xa4" FFFD FFFD FFFD),

    /* The standard's own example of maximal parts. */
    BAD("a\xf1\x80\x80\xe1\x80\xc2"
        "b\x80"
        "c\x80\xbf"
        "d",
        1, "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d"),
};

/* Where a text stands in its memory must not matter. */
static void check_sequence(const struct sequence *s, size_t before)
{
    size_t len = before + s->len;
    char *copy = malloc(len ? len : 1);
    struct buffer out = BUFFER_INIT(4096);

    assert_non_null(copy);
    memset(copy, '-', before);
    memcpy(copy + before, s->data, s->len);
    assert_int_equal(utf8_valid_prefix(copy, len), before + s->valid);
    assert_int_equal(utf8_is_valid(copy, len), s->valid == s->len);
    utf8_append_repaired(&out, copy, len);
    assert_int_equal(buffer_length(&out), before + strlen(s->repaired));
    if (*s->repaired)
        assert_memory_equal(buffer_bytes(&out) + before, s->repaired, strlen(s->repaired));
    assert_true(utf8_is_valid(buffer_bytes(&out), buffer_length(&out)));
    buffer_done(&out);
    free(copy);
}

static void test_sequences(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sequences / sizeof *sequences; i++)
        for (size_t before = 0; before < 17; before++)
            check_sequence(&sequences[i], before);
}

static void test_nul_is_a_character(void **state)
{
    (void)state;
    assert_true(utf8_is_valid("\0", 1));
    assert_true(utf8_is_valid("a\0\xc3\xa4\0", 5));
    assert_int_equal(utf8_valid_prefix("\0\0\0\0\0\0\0\0\0\xff", 10), 9);
}

static void test_no_bytes_at_all(void **state)
{
    struct buffer out = BUFFER_INIT(16);

    (void)state;
    assert_true(utf8_is_valid(NULL, 0));
    utf8_append_repaired(&out, NULL, 0);
    assert_int_equal(buffer_length(&out), 0);
    assert_int_equal(utf8_truncate(NULL, 0, 5), 0);
    assert_int_equal(out.error, 0);
    buffer_done(&out);
}

/* A decoder without tables or tricks, to compare with. -1: bad. */
static int64_t decode(const uint8_t *p, size_t len, size_t *ret_n)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    static const int64_t least[] = {0, 0, 0x80, 0x800, 0x10000};

    *ret_n = n;
    if (n == 0 || n > len)
        return -1;
    int64_t c = n == 1 ? p[0] : p[0] & (0x7f >> n);
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return -1;
        c = c << 6 | (p[i] & 0x3f);
    }
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? -1 : c;
}

static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x110000; c++) {
        uint8_t out[5] = {0xee, 0xee, 0xee, 0xee, 0xee};
        size_t n = utf8_encode(c, out), decoded_n;
        bool none = c > 0x10ffff || (c >= 0xd800 && c < 0xe000);

        assert_true(n >= 1 && n <= 4 && out[n] == 0xee);
        assert_true(utf8_is_valid(out, n));
        assert_int_equal(decode(out, n, &decoded_n), none ? 0xfffd : c);
        assert_int_equal(decoded_n, n);
    }
    uint8_t out[4];
    assert_int_equal(utf8_encode(UINT32_MAX, out), 3);
    assert_memory_equal(out, FFFD, 3);
}

/* All of one, two and three bytes; and of four, where the first is that of a long one. */
static void test_every_short_text(void **state)
{
    uint8_t text[4];

    (void)state;
    for (uint32_t x = 0; x < UINT32_C(1) << 24; x++) {
        size_t at = 0, n;
        text[0] = (uint8_t)(x >> 16);
        text[1] = (uint8_t)(x >> 8);
        text[2] = (uint8_t)x;
        while (at < 3 && decode(text + at, 3 - at, &n) >= 0)
            at += n;
        if (utf8_valid_prefix(text, 3) != at)
            fail_msg("%06x", x);
    }
    for (unsigned first = 0xe0; first <= 0xff; first++) {
        static const uint8_t edges[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f,
                                        0xa0, 0xbf, 0xc0, 0xc2, 0xe0, 0xff};
        for (size_t i = 0; i < 12 * 12 * 12; i++) {
            size_t at = 0, n;
            text[0] = (uint8_t)first;
            text[1] = edges[i % 12];
            text[2] = edges[i / 12 % 12];
            text[3] = edges[i / 144];
            while (at < 4 && decode(text + at, 4 - at, &n) >= 0)
                at += n;
            assert_int_equal(utf8_valid_prefix(text, 4), at);
        }
    }
}

static void test_truncate_keeps_sequences_whole(void **state)
{
    static const char text[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80z";
    static const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11, 11};

    (void)state;
    for (size_t max = 0; max < sizeof expected / sizeof *expected; max++)
        assert_int_equal(utf8_truncate(text, sizeof text - 1, max), expected[max]);
    assert_int_equal(utf8_truncate("\xf0\x9f\x98\x80", 4, 3), 0);
    assert_int_equal(utf8_truncate("", 0, 0), 0);
    assert_int_equal(utf8_truncate("abc", 3, SIZE_MAX), 3);
}

static void test_repair_keeps_to_the_limit(void **state)
{
    struct buffer out = BUFFER_INIT(7);

    (void)state;
    utf8_append_repaired(&out,
                         "a\xff\xff\xff"
                         "b",
                         5);
    assert_true(out.error < 0);
    assert_int_equal(buffer_length(&out), 7);
    assert_memory_equal(buffer_bytes(&out), "a" FFFD FFFD, 7);
    buffer_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_nul_is_a_character),
        cmocka_unit_test(test_no_bytes_at_all),
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_every_short_text),
        cmocka_unit_test(test_truncate_keeps_sequences_whole),
        cmocka_unit_test(test_repair_keeps_to_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
