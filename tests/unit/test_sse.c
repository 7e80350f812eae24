/* The event stream parser: every case at every split, and byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "buffer.h"
#include "sse.h"

enum { EVENT_MAX = 16 * 1024 * 1024 };

/* What came out, each event with its length in front, so that no two results look alike. */
struct events {
    struct buffer text;
    size_t n, stop_after;
};

static bool on_event(void *user, const uint8_t *data, size_t len)
{
    struct events *events = user;

    buffer_printf(&events->text, "%zu:", len);
    buffer_append(&events->text, data, len);
    return ++events->n != events->stop_after;
}

/* Pieces are copied to memory of just their size, where a sanitizer sees any byte too far. */
static int feed(struct sse_parser *p, const char *data, size_t len, struct events *events)
{
    uint8_t *piece = malloc(len ? len : 1);

    assert_non_null(piece);
    memcpy(piece, data, len);
    int r = sse_parser_feed(p, piece, len, on_event, events);
    memset(piece, 0xAA, len);
    free(piece);
    return r;
}

static void assert_events(struct events *events, const char *const *expected)
{
    struct buffer want = BUFFER_INIT(EVENT_MAX);

    for (; *expected; expected++)
        buffer_printf(&want, "%zu:%s", strlen(*expected), *expected);
    assert_int_equal(buffer_length(&events->text), buffer_length(&want));
    if (buffer_length(&want) > 0)
        assert_memory_equal(buffer_bytes(&events->text), buffer_bytes(&want), buffer_length(&want));
    buffer_done(&want);
    buffer_done(&events->text);
}

/* first: size of the first piece; then: size of all others. */
static void check_split(const char *input, size_t len, size_t first, size_t then, bool done,
                        const char *const *expected)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct sse_parser p;
    size_t at = 0;

    sse_parser_init(&p, EVENT_MAX, NULL);
    for (size_t n = first; at < len; n = then) {
        n = n < len - at ? n : len - at;
        assert_int_equal(feed(&p, input + at, n, &events), 0);
        at += n;
    }
    assert_int_equal(sse_parser_finish(&p, on_event, &events), 0);
    assert_int_equal(sse_parser_is_done(&p), done);
    sse_parser_done(&p);
    assert_events(&events, expected);
}

static void check_bytes(const char *input, size_t len, bool done, const char *const *expected)
{
    for (size_t first = 0; first <= len; first++)
        check_split(input, len, first, len, done, expected);
    for (size_t size = 1; size <= 3; size++)
        check_split(input, len, size, size, done, expected);
}

/* The input has LF; it is tried with CR and CRLF in their place too. */
static void check(const char *input, bool done, const char *const *expected)
{
    static const char *const ends[] = {"\n", "\r", "\r\n"};

    for (size_t i = 0; i < 3; i++) {
        struct buffer text = BUFFER_INIT(EVENT_MAX);

        for (const char *c = input; *c; c++)
            if (*c == '\n')
                buffer_append_string(&text, ends[i]);
            else
                buffer_append_byte(&text, (uint8_t)*c);
        check_bytes((const char *)buffer_bytes(&text), buffer_length(&text), done, expected);
        buffer_done(&text);
    }
}

#define EXPECT(...)                                                                                \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__ __VA_OPT__(, ) NULL                                                            \
    }

static void test_basic_event(void **state)
{
    (void)state;
    check("event: completion\ndata: {\"foo\":true}\n\n", false, EXPECT("{\"foo\":true}"));
    check("data: {\"foo\":true}\n\n", false, EXPECT("{\"foo\":true}"));
    check("data:{\"foo\":true}\n\n", false, EXPECT("{\"foo\":true}"));
}

static void test_one_space_is_dropped_and_no_more(void **state)
{
    (void)state;
    check("data:  x \n\ndata:\ty\n\n", false, EXPECT(" x ", "\ty"));
}

static void test_event_without_data_is_none(void **state)
{
    (void)state;
    check("event: ping\n\n", false, EXPECT());
    check("event: ping\n\nevent: completion\n\n", false, EXPECT());
    check("event: ping\n\ndata: x\n\n", false, EXPECT("x"));
    check("data\n\ndata:\n\ndata: \n\nevent: ping\ndata:\n\n", false, EXPECT());
    check("\n\n\n\n", false, EXPECT());
    check("", false, EXPECT());
}

static void test_multiple_events(void **state)
{
    (void)state;
    check("event: ping\ndata: {\"foo\":true}\n\nevent: completion\ndata: {\"bar\":false}\n\n",
          false, EXPECT("{\"foo\":true}", "{\"bar\":false}"));
    check("data: a\n\n\n\ndata: b\n\n", false, EXPECT("a", "b"));
}

static void test_data_lines_are_joined(void **state)
{
    (void)state;
    check("event: ping\ndata: {\ndata: \"foo\":\ndata: true}\n\n\n", false,
          EXPECT("{\n\"foo\":\ntrue}"));
    check("event: ping\ndata: {\ndata: \"foo\":\ndata: \ndata:\ndata: true}\n\n\n", false,
          EXPECT("{\n\"foo\":\n\n\ntrue}"));
    check("data\ndata: x\n\n", false, EXPECT("\nx"));
    check("data: a\n: between\nid: 1\ndata: b\n\n", false, EXPECT("a\nb"));
    check("data:\ndata:\n\n", false, EXPECT("\n"));
}

static void test_escaped_newlines_stay_in_the_data(void **state)
{
    (void)state;
    check("data: {\"foo\": \"my long\\n\\ncontent\"}\n\n\n", false,
          EXPECT("{\"foo\": \"my long\\n\\ncontent\"}"));
    check("data: a\\r\\nb\n\n", false, EXPECT("a\\r\\nb"));
}

static void test_unicode_line_separators_end_no_line(void **state)
{
    (void)state;
    check("data: {\"content\":\" culpa\xe2\x80\xa8\"}\n\n"
          "data: {\"content\":\"\xe2\x80\xa9\xc2\x85\x0b\x0c\x1c\x1e\"}\n\n",
          false,
          EXPECT("{\"content\":\" culpa\xe2\x80\xa8\"}",
                 "{\"content\":\"\xe2\x80\xa9\xc2\x85\x0b\x0c\x1c\x1e\"}"));
}

static void test_multi_byte_characters_may_be_cut(void **state)
{
    (void)state;
    check("data: {\"content\":\"\xd0\xb8\xd0\xb7\xd0\xb2\xd0\xb5 \xf0\x9f\x98\x8d\"}\n\n", false,
          EXPECT("{\"content\":\"\xd0\xb8\xd0\xb7\xd0\xb2\xd0\xb5 \xf0\x9f\x98\x8d\"}"));
}

static void test_comments_and_fields_are_read_over(void **state)
{
    (void)state;
    check(": OPENROUTER PROCESSING\n\n:\n\n:x\nevent: e\nid: 7\nretry: 3000\nfoo: bar\nbar\n"
          "data: x\n\n: keep-alive\n\ndata: y\n\n",
          false, EXPECT("x", "y"));
    check("database: no\n\ndat: no\n\n data: no\n\nData: no\n\ndata : no\n\n", false, EXPECT());
    check("id: a: b\ndata: a: b\n\n", false, EXPECT("a: b"));
}

static void test_nul_is_data(void **state)
{
    static const char input[] = "data: a\0b\n\nid: \0\n\ndata: c\n\n";
    static const char want[] = "3:a\0b1:c";

    (void)state;
    for (size_t first = 0; first < sizeof input; first++) {
        struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
        struct sse_parser p;

        sse_parser_init(&p, EVENT_MAX, NULL);
        assert_int_equal(feed(&p, input, first, &events), 0);
        assert_int_equal(feed(&p, input + first, sizeof input - 1 - first, &events), 0);
        assert_int_equal(buffer_length(&events.text), sizeof want - 1);
        assert_memory_equal(buffer_bytes(&events.text), want, sizeof want - 1);
        buffer_done(&events.text);
        sse_parser_done(&p);
    }
}

static void test_mixed_line_ends(void **state)
{
    static const char input[] = "id:one\r\ndata:..\r\n\ndata:two\n\rdata:unfinished";
    static const char more[] = "data: a\rdata: b\ndata: c\r\n\r\r\n\n\rdata: d\n\r\n";

    (void)state;
    check_bytes(input, sizeof input - 1, false, EXPECT("..", "two"));
    check_bytes(more, sizeof more - 1, false, EXPECT("a\nb\nc", "d"));
}

/* A CR ends its line at once; the LF behind it belongs to it even if it comes later. */
static void test_trailing_cr_ends_the_line_at_once(void **state)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct sse_parser p;

    (void)state;
    sse_parser_init(&p, EVENT_MAX, NULL);
    feed(&p, "data: a\r", 8, &events);
    feed(&p, "\n", 1, &events);
    assert_int_equal(events.n, 0);
    feed(&p, "\r", 1, &events);
    assert_int_equal(events.n, 1);
    feed(&p, "\ndata: b\r\r", 10, &events);
    assert_int_equal(events.n, 2);
    feed(&p, "\n", 1, &events);
    feed(&p, "\n\n", 2, &events);
    assert_int_equal(events.n, 2);
    sse_parser_done(&p);
    assert_events(&events, EXPECT("a", "b"));
}

static void test_event_comes_with_its_blank_line(void **state)
{
    static const struct {
        const char *piece;
        size_t n_events;
    } steps[] = {
        {"data: a", 0},   {"\n", 0}, {"\n", 1},  {"data: b\n", 1},
        {"data: c\n", 1}, {"\n", 2}, {": x", 2}, {"\n\n\n", 2},
    };
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct sse_parser p;

    (void)state;
    sse_parser_init(&p, EVENT_MAX, NULL);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        feed(&p, steps[i].piece, strlen(steps[i].piece), &events);
        assert_int_equal(events.n, steps[i].n_events);
    }
    sse_parser_done(&p);
    assert_events(&events, EXPECT("a", "b\nc"));
}

static void test_byte_order_mark(void **state)
{
    (void)state;
    check("\xef\xbb\xbf"
          "data: x\n\n",
          false, EXPECT("x"));
    /* Only one, only at the beginning, and only a whole one. */
    check("\xef\xbb\xbf\xef\xbb\xbf"
          "data: x\n\ndata: y\n\n",
          false, EXPECT("y"));
    check("data: x\n\n\xef\xbb\xbf"
          "data: y\n\n",
          false, EXPECT("x"));
    check("\xef\xbb"
          "data: x\n\ndata: y\n\n",
          false, EXPECT("y"));
    check("\xef"
          "data: x\n\ndata: y\n\n",
          false, EXPECT("y"));
    check("\xef\xbb", false, EXPECT());
}

static void test_done_ends_the_stream(void **state)
{
    (void)state;
    check("data: x\n\ndata: [DONE]\n\n", true, EXPECT("x"));
    check("data:[DONE]\n\n", true, EXPECT());
    check("data: x\n\ndata:  [DONE] \t\n\ndata: y\n\ndata: [DONE]\n\n", true, EXPECT("x"));
    check("data: [DONE]\nrubbish\n\ndata: y\n\n", true, EXPECT());
}

static void test_done_needs_no_blank_line(void **state)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct sse_parser p;

    (void)state;
    check("data: x\n\ndata: [DONE]\n", true, EXPECT("x"));
    check("data: x\n\ndata: [DONE]", true, EXPECT("x"));
    check("data: [DONE] ", true, EXPECT());

    sse_parser_init(&p, EVENT_MAX, NULL);
    feed(&p, "data: [DONE]", 12, &events);
    assert_false(sse_parser_is_done(&p));
    feed(&p, "\r", 1, &events);
    assert_true(sse_parser_is_done(&p));
    sse_parser_done(&p);
}

static void test_what_only_looks_like_done_is_data(void **state)
{
    (void)state;
    check("data: [DONE]x\n\n", false, EXPECT("[DONE]x"));
    check("data: [done]\n\n", false, EXPECT("[done]"));
    check("data: \"[DONE]\"\n\n", false, EXPECT("\"[DONE]\""));
    check("data: x\ndata: [DONE]\n\n", false, EXPECT("x\n[DONE]"));
    check("event: [DONE]\n\n: [DONE]\n\n", false, EXPECT());
    check("data: [DON", false, EXPECT());
}

static void test_unfinished_event_is_dropped(void **state)
{
    (void)state;
    check("data: x", false, EXPECT());
    check("data: x\n", false, EXPECT());
    check("data: a\n\ndata: {\"id\":\"c\",\"obj", false, EXPECT("a"));
    check("data: a\n\ndata: b\ndata: c\n", false, EXPECT("a"));
}

static void repeat(struct buffer *text, const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buffer_append_string(text, line);
}

static void test_long_unfinished_event_makes_no_event(void **state)
{
    static const size_t sizes[] = {1, 97, 100000};
    static const char *const lines[] = {":x\n", "data:x\n", "ignored:x\n"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct buffer text = BUFFER_INIT(EVENT_MAX);

        repeat(&text, lines[i], 2000);
        for (size_t j = 0; j < 3; j++)
            check_split((const char *)buffer_bytes(&text), buffer_length(&text), sizes[j], sizes[j],
                        false, EXPECT());
        buffer_done(&text);
    }
}

static void test_many_events_in_one_piece(void **state)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct buffer text = BUFFER_INIT(EVENT_MAX);
    struct sse_parser p;

    (void)state;
    repeat(&text, "data: {}\n\n", 2000);
    sse_parser_init(&p, EVENT_MAX, NULL);
    assert_int_equal(
        sse_parser_feed(&p, buffer_bytes(&text), buffer_length(&text), on_event, &events), 0);
    assert_int_equal(events.n, 2000);
    assert_int_equal(p.line.capacity + p.data.capacity, 0); /* nothing was copied */
    sse_parser_done(&p);
    buffer_done(&text);
    buffer_done(&events.text);
}

static void test_ignored_lines_take_no_memory(void **state)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct sse_parser p;

    (void)state;
    sse_parser_init(&p, EVENT_MAX, NULL);
    for (size_t i = 0; i < 10000; i++) {
        feed(&p, ": keep-", 7, &events);
        feed(&p, "alive\n", 6, &events);
        feed(&p, "event: x\nid: y\n\n", 16, &events);
    }
    assert_true(p.line.capacity + p.data.capacity <= 1024);
    assert_int_equal(events.n, 0);
    sse_parser_done(&p);
}

static void test_big_events(void **state)
{
    struct events events = {.text = BUFFER_INIT(2 * EVENT_MAX)};
    struct buffer text = BUFFER_INIT(EVENT_MAX);
    struct sse_parser p;

    (void)state;
    buffer_append_string(&text, "data: ");
    for (size_t i = 0; i < 2 * 1024 * 1024; i++)
        buffer_append_byte(&text, 'x');
    buffer_append_string(&text, "\n\n");
    repeat(&text, "data: y\n", 10000);
    buffer_append_string(&text, "\n");
    sse_parser_init(&p, EVENT_MAX, NULL);
    for (size_t at = 0; at < buffer_length(&text); at += 61)
        assert_int_equal(feed(&p, (char *)buffer_bytes(&text) + at,
                              buffer_length(&text) - at < 61 ? buffer_length(&text) - at : 61,
                              &events),
                         0);
    assert_int_equal(events.n, 2);
    assert_int_equal(buffer_length(&events.text), 8 + 2 * 1024 * 1024 + 6 + 19999);
    assert_true(p.line.capacity <= 64 * 1024 && p.data.capacity <= 64 * 1024);
    sse_parser_done(&p);
    buffer_done(&text);
    buffer_done(&events.text);
}

static void check_size(const char *input, size_t max, int error)
{
    size_t len = strlen(input);

    for (size_t size = 1; size <= len; size++) {
        struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
        struct sse_parser p;
        int r = 0;

        sse_parser_init(&p, max, NULL);
        for (size_t at = 0; at < len; at += size)
            r = feed(&p, input + at, len - at < size ? len - at : size, &events);
        assert_int_equal(r, error);
        assert_int_equal(events.n, error ? 0 : 1);
        assert_int_equal(feed(&p, "data: z\n\n", 9, &events), error);
        assert_int_equal(events.n, error ? 0 : 2);
        sse_parser_done(&p);
        buffer_done(&events.text);
    }
}

static void test_event_too_long_is_refused(void **state)
{
    (void)state;
    check_size("data: 1234567890\n\n", 10, 0);
    check_size("data: 12345678901\n\n", 10, -EMSGSIZE);
    check_size("data:12345678901\n\n", 10, -EMSGSIZE);
    check_size("data: 1234\ndata: 67890\n\n", 10, 0);
    check_size("data: 1234\ndata: 678901\n\n", 10, -EMSGSIZE);
    check_size(": 56789012345\r\ndata: 1\r\n\r\n", 10, 0);
    check_size(": a comment that is too long\ndata: 1\n\n", 10, -EMSGSIZE);
}

static void test_endless_line_is_refused_in_bounded_memory(void **state)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    struct sse_parser p;
    char piece[4096];
    int r = 0;

    (void)state;
    memset(piece, 'x', sizeof piece);
    sse_parser_init(&p, 1024 * 1024, NULL);
    for (size_t i = 0; i < 64 * 1024 && r == 0; i++) {
        r = feed(&p, piece, sizeof piece, &events);
        assert_true(p.line.capacity <= 2 * 1024 * 1024);
    }
    assert_int_equal(r, -EMSGSIZE);
    sse_parser_done(&p);
}

static void test_callback_stops_the_parser(void **state)
{
    static const char input[] = "data: a\n\ndata: b\n\ndata: c\n\ndata: [DONE]\n\n";

    (void)state;
    for (size_t size = 1; size < sizeof input; size++) {
        struct events events = {.text = BUFFER_INIT(EVENT_MAX), .stop_after = 2};
        struct sse_parser p;

        sse_parser_init(&p, EVENT_MAX, NULL);
        for (size_t at = 0; at < sizeof input - 1; at += size)
            feed(&p, input + at, sizeof input - 1 - at < size ? sizeof input - 1 - at : size,
                 &events);
        assert_int_equal(sse_parser_finish(&p, on_event, &events), 0);
        assert_false(sse_parser_is_done(&p));
        sse_parser_done(&p);
        assert_events(&events, EXPECT("a", "b"));
    }
}

/* Lines that end in CR alone must not make the search for LF quadratic: 2 million empty lines. */
static void test_many_short_lines_take_linear_time(void **state)
{
    struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
    const size_t len = 2 * 1024 * 1024;
    struct sse_parser p;
    char *piece = malloc(len);

    (void)state;
    assert_non_null(piece);
    memset(piece, '\r', len);
    sse_parser_init(&p, EVENT_MAX, NULL);
    assert_int_equal(feed(&p, piece, len, &events), 0);
    assert_int_equal(events.n, 0);
    sse_parser_done(&p);
    free(piece);
}

#define B16  "bbbbbbbbbbbbbbbb"
#define LONG B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16 B16

/* What is kept between pieces is the account's; what is over it is refused, for good. */
static void test_account_that_is_used_up_ends_the_stream(void **state)
{
    static const struct {
        const char *first, *then;
    } cases[] = {
        {"data: a", LONG "\n\n"},                           /* a line's end */
        {"data: a", "bbbbbbbbbbbbbbbbbbbbbbbb"},            /* its middle */
        {"data: a\ndata: b\n", "data: bbbbbbbbbbbbbbbb\n"}, /* an event's next line */
        {"", "data: a\n"},                                  /* an event's only line */
        {"\xef\xbb", "data: a\n\n"},                        /* what was no BOM */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct memory memory = MEMORY_INIT(SIZE_MAX, NULL);
        struct events events = {.text = BUFFER_INIT(EVENT_MAX)};
        struct sse_parser p;

        sse_parser_init(&p, EVENT_MAX, &memory);
        assert_int_equal(feed(&p, cases[i].first, strlen(cases[i].first), &events), 0);
        memory.limit = memory.used;
        /* There may be room left in what is allocated. */
        for (int n = 0; n < 1000 && p.error == 0; n++)
            feed(&p, cases[i].then, strlen(cases[i].then), &events);
        assert_int_equal(p.error, -EDQUOT);
        size_t n = events.n;
        memory.limit = SIZE_MAX;
        assert_int_equal(feed(&p, "\n\ndata: c\n\n", 11, &events), -EDQUOT);
        assert_int_equal(sse_parser_finish(&p, on_event, &events), -EDQUOT);
        assert_int_equal(events.n, n);
        sse_parser_done(&p);
        assert_int_equal(memory.used, 0);
        buffer_done(&events.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_basic_event),
        cmocka_unit_test(test_one_space_is_dropped_and_no_more),
        cmocka_unit_test(test_event_without_data_is_none),
        cmocka_unit_test(test_multiple_events),
        cmocka_unit_test(test_data_lines_are_joined),
        cmocka_unit_test(test_escaped_newlines_stay_in_the_data),
        cmocka_unit_test(test_unicode_line_separators_end_no_line),
        cmocka_unit_test(test_multi_byte_characters_may_be_cut),
        cmocka_unit_test(test_comments_and_fields_are_read_over),
        cmocka_unit_test(test_nul_is_data),
        cmocka_unit_test(test_mixed_line_ends),
        cmocka_unit_test(test_trailing_cr_ends_the_line_at_once),
        cmocka_unit_test(test_event_comes_with_its_blank_line),
        cmocka_unit_test(test_byte_order_mark),
        cmocka_unit_test(test_done_ends_the_stream),
        cmocka_unit_test(test_done_needs_no_blank_line),
        cmocka_unit_test(test_what_only_looks_like_done_is_data),
        cmocka_unit_test(test_unfinished_event_is_dropped),
        cmocka_unit_test(test_long_unfinished_event_makes_no_event),
        cmocka_unit_test(test_many_events_in_one_piece),
        cmocka_unit_test(test_ignored_lines_take_no_memory),
        cmocka_unit_test(test_big_events),
        cmocka_unit_test(test_event_too_long_is_refused),
        cmocka_unit_test(test_endless_line_is_refused_in_bounded_memory),
        cmocka_unit_test(test_callback_stops_the_parser),
        cmocka_unit_test(test_many_short_lines_take_linear_time),
        cmocka_unit_test(test_account_that_is_used_up_ends_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
