/* The buffer: what it holds after appending, consuming and failing, and how much memory it takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "buffer.h"

static void assert_holds(const struct buffer *b, const char *text)
{
    assert_int_equal(buffer_length(b), strlen(text));
    if (*text)
        assert_memory_equal(buffer_bytes(b), text, strlen(text));
}

static void test_an_empty_buffer_has_no_memory(void **state)
{
    struct buffer b = BUFFER_INIT(100);

    (void)state;
    assert_int_equal(buffer_length(&b), 0);
    assert_null(buffer_bytes(&b));
    assert_null(b.data);
    buffer_consume(&b, 0);
    buffer_consume(&b, 5);
    buffer_truncate(&b, 0);
    buffer_trim(&b, 0);
    assert_int_equal(buffer_length(&b), 0);
    buffer_done(&b);
    buffer_wipe(&b);
}

static void test_appends_in_order(void **state)
{
    struct buffer b = BUFFER_INIT(100);

    (void)state;
    buffer_append(&b, "ab", 2);
    buffer_append(&b, "", 0);
    buffer_append(&b, NULL, 0);
    buffer_append_byte(&b, 'c');
    buffer_append_string(&b, "de");
    buffer_append_string(&b, "");
    buffer_printf(&b, "%s-%d", "f", 7);
    assert_holds(&b, "abcdef-7");
    assert_int_equal(b.error, 0);
    buffer_done(&b);
}

static void test_reserved_space_is_no_content(void **state)
{
    struct buffer b = BUFFER_INIT(1000);

    (void)state;
    buffer_append(&b, "x", 1);
    uint8_t *p = buffer_reserve(&b, 900);
    assert_non_null(p);
    memset(p, 'y', 900);
    assert_holds(&b, "x");
    buffer_commit(&b, 2);
    assert_holds(&b, "xyy");
    assert_ptr_equal(buffer_reserve(&b, 0), p + 2);
    buffer_done(&b);
}

/* ---- Limits ---- */

static void test_the_limit_is_exact(void **state)
{
    struct buffer b = BUFFER_INIT(10);

    (void)state;
    buffer_append(&b, "0123456789", 10);
    assert_int_equal(b.error, 0);
    buffer_append(&b, "", 0);
    assert_int_equal(b.error, 0);
    buffer_append_byte(&b, 'x');
    assert_int_equal(b.error, -EMSGSIZE);
    assert_holds(&b, "0123456789");
    buffer_done(&b);

    assert_null(buffer_reserve(&b, 11));
    assert_int_equal(b.error, -EMSGSIZE);
    assert_null(b.data);
    buffer_done(&b);
}

/* Half of what does not fit is not appended, and what would fit afterwards is not either. */
static void test_errors_are_sticky(void **state)
{
    struct buffer b = BUFFER_INIT(4);

    (void)state;
    buffer_append(&b, "ab", 2);
    buffer_append(&b, "cde", 3);
    buffer_append(&b, "c", 1);
    buffer_append_byte(&b, 'c');
    buffer_append_string(&b, "c");
    buffer_printf(&b, "c");
    assert_null(buffer_reserve(&b, 1));
    assert_null(buffer_reserve(&b, 0));
    assert_int_equal(b.error, -EMSGSIZE);
    assert_holds(&b, "ab");
    buffer_consume(&b, 1);
    assert_holds(&b, "b");
    buffer_append(&b, "c", 1);
    assert_holds(&b, "b");
    buffer_consume(&b, 1);
    buffer_trim(&b, 0);
    assert_int_equal(b.error, -EMSGSIZE);
    buffer_done(&b);
    assert_int_equal(b.error, 0);
    assert_int_equal(b.limit_bytes, 4);
    buffer_append(&b, "wxyz", 4);
    assert_holds(&b, "wxyz");
    buffer_done(&b);
}

static void test_the_limit_is_of_what_is_held(void **state)
{
    struct buffer b = BUFFER_INIT(300);
    char text[300];

    (void)state;
    memset(text, 'x', sizeof text);
    for (int i = 0; i < 1000; i++) {
        buffer_append(&b, text, 1 + (size_t)i % 300);
        assert_int_equal(b.error, 0);
        buffer_consume(&b, buffer_length(&b));
    }
    buffer_append(&b, text, 200);
    buffer_consume(&b, 150);
    buffer_append(&b, text, 250);
    assert_int_equal(b.error, 0);
    buffer_append_byte(&b, 'x');
    assert_int_equal(b.error, -EMSGSIZE);
    assert_true(b.capacity <= 1024);
    buffer_done(&b);
}

static void test_a_limit_of_nothing(void **state)
{
    struct buffer b = BUFFER_INIT(0);

    (void)state;
    buffer_append(&b, NULL, 0);
    assert_int_equal(b.error, 0);
    buffer_append_byte(&b, 'x');
    assert_int_equal(b.error, -EMSGSIZE);
    buffer_done(&b);
}

/* Sizes that no machine has are refused, and do not wrap. */
static void test_sizes_without_bound(void **state)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2 + 2, SIZE_MAX / 2 + 1};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct buffer b = BUFFER_INIT(SIZE_MAX);
        assert_null(buffer_reserve(&b, sizes[i]));
        assert_true(b.error < 0);
        buffer_done(&b);
        buffer_append(&b, "abc", 3);
        assert_null(buffer_reserve(&b, sizes[i]));
        assert_true(b.error < 0);
        assert_holds(&b, "abc");
        buffer_done(&b);
    }
}

/* ---- Consuming ---- */

static void test_consumes_from_the_front(void **state)
{
    struct buffer b = BUFFER_INIT(100);

    (void)state;
    buffer_append_string(&b, "abcdef");
    buffer_consume(&b, 0);
    assert_holds(&b, "abcdef");
    buffer_consume(&b, 2);
    assert_holds(&b, "cdef");
    buffer_append_string(&b, "g");
    assert_holds(&b, "cdefg");
    buffer_truncate(&b, 9);
    assert_holds(&b, "cdefg");
    buffer_truncate(&b, 5);
    assert_holds(&b, "cdefg");
    buffer_truncate(&b, 2);
    assert_holds(&b, "cd");
    buffer_append_string(&b, "x");
    assert_holds(&b, "cdx");
    buffer_truncate(&b, 0);
    assert_holds(&b, "");
    buffer_append_string(&b, "yz");
    buffer_consume(&b, 2);
    assert_holds(&b, "");
    assert_int_equal(b.start, 0);
    buffer_append_string(&b, "z");
    buffer_consume(&b, SIZE_MAX);
    assert_holds(&b, "");
    buffer_done(&b);
}

/* A queue of any pattern is what went in less what went out, and its memory does not grow. */
static void test_a_queue_keeps_its_bytes(void **state)
{
    struct buffer b = BUFFER_INIT(5000);
    uint32_t random = 1;
    uint8_t in = 0, out = 0;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        random = random * 1664525 + 1013904223;
        size_t n = random >> 8 & 0x3ff, room = 5000 - buffer_length(&b);
        if (random >> 31) {
            for (n = n < room ? n : room; n > 0; n--)
                buffer_append_byte(&b, in++);
        } else {
            n = n < buffer_length(&b) ? n : buffer_length(&b);
            for (size_t k = 0; k < n; k++)
                assert_int_equal(buffer_bytes(&b)[k], out++);
            buffer_consume(&b, n);
        }
        assert_int_equal((uint8_t)(in - out), (uint8_t)buffer_length(&b));
    }
    assert_int_equal(b.error, 0);
    assert_true(b.capacity <= 16384);
    buffer_done(&b);
}

/* ---- Memory ---- */

static void test_trim_gives_back_what_is_too_much(void **state)
{
    struct buffer b = BUFFER_INIT(10000);

    (void)state;
    assert_non_null(buffer_reserve(&b, 5000));
    buffer_commit(&b, 5000);
    size_t capacity = b.capacity;
    buffer_trim(&b, 0);
    assert_int_equal(b.capacity, capacity); /* not empty */
    buffer_consume(&b, 4999);
    buffer_trim(&b, 0);
    assert_int_equal(buffer_length(&b), 1);
    buffer_consume(&b, 1);
    buffer_trim(&b, capacity);
    assert_int_equal(b.capacity, capacity);
    buffer_trim(&b, capacity - 1);
    assert_int_equal(b.capacity, 0);
    assert_null(b.data);
    buffer_append_string(&b, "again");
    assert_holds(&b, "again");
    buffer_done(&b);
}

static void test_wipe_leaves_an_empty_buffer(void **state)
{
    struct buffer b = BUFFER_INIT(100);

    (void)state;
    buffer_append_string(&b, "sk-secret");
    buffer_consume(&b, 3);
    buffer_wipe(&b);
    assert_null(b.data);
    assert_int_equal(buffer_length(&b), 0);
    buffer_append_string(&b, "x");
    assert_holds(&b, "x");
    buffer_wipe(&b);
}

static void test_printf_of_any_length(void **state)
{
    static char text[3000];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    for (int n = 0; n < 1200; n++) {
        struct buffer b = BUFFER_INIT(2000);
        buffer_printf(&b, "%d:%.*s", 1, n, text);
        assert_int_equal(b.error, 0);
        assert_int_equal(buffer_length(&b), n + 2);
        assert_memory_equal(buffer_bytes(&b), "1:", 2);
        assert_memory_equal(buffer_bytes(&b) + 2, text, (size_t)n);
        buffer_done(&b);
    }
}

static void test_printf_keeps_to_the_limit(void **state)
{
    static char text[3000];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    for (size_t limit = 500; limit < 530; limit++) {
        struct buffer b = BUFFER_INIT(limit);
        buffer_printf(&b, "%.*s", (int)limit, text);
        assert_int_equal(b.error, 0);
        assert_int_equal(buffer_length(&b), limit);
        buffer_done(&b);
        buffer_printf(&b, "%.*s", (int)limit + 1, text);
        assert_int_equal(b.error, -EMSGSIZE);
        assert_int_equal(buffer_length(&b), 0);
        buffer_done(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_buffer_has_no_memory),
        cmocka_unit_test(test_appends_in_order),
        cmocka_unit_test(test_reserved_space_is_no_content),
        cmocka_unit_test(test_the_limit_is_exact),
        cmocka_unit_test(test_errors_are_sticky),
        cmocka_unit_test(test_the_limit_is_of_what_is_held),
        cmocka_unit_test(test_a_limit_of_nothing),
        cmocka_unit_test(test_sizes_without_bound),
        cmocka_unit_test(test_consumes_from_the_front),
        cmocka_unit_test(test_a_queue_keeps_its_bytes),
        cmocka_unit_test(test_trim_gives_back_what_is_too_much),
        cmocka_unit_test(test_wipe_leaves_an_empty_buffer),
        cmocka_unit_test(test_printf_of_any_length),
        cmocka_unit_test(test_printf_keeps_to_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
