/* Accounts of memory, and buffers that are charged to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "buffer.h"
#include "memory.h"

static void a_charge_counts_in_the_whole_chain_or_nowhere(void **state)
{
    struct memory all = MEMORY_INIT(100, NULL), one = MEMORY_INIT(80, &all),
                  other = MEMORY_INIT(SIZE_MAX, &all);
    (void)state;

    assert_true(memory_charge(&one, 80));
    assert_false(memory_charge(&one, 1));
    assert_false(memory_charge(&other, 21));
    assert_false(memory_charge(&other, SIZE_MAX));
    assert_int_equal(other.used, 0);
    assert_int_equal(all.used, 80);
    assert_true(memory_charge(&other, 20));
    memory_release(&one, 30);
    assert_int_equal(one.used, 50);
    assert_int_equal(all.used, 70);

    /* A limit below what is used refuses until enough has come back. */
    one.limit = 40;
    assert_false(memory_charge(&one, 1));
    memory_release(&one, 11);
    assert_true(memory_charge(&one, 1));
    assert_true(memory_charge(NULL, SIZE_MAX));
    memory_release(NULL, 1);
}

static void what_is_essential_may_take_an_eighth_more(void **state)
{
    struct memory all = MEMORY_INIT(SIZE_MAX, NULL), one = MEMORY_INIT(80, &all);
    struct buffer b = BUFFER_INIT_IN(10, &one);
    (void)state;

    assert_true(memory_charge(&one, 80));
    buffer_append(&b, "0123456789", 10);
    assert_int_equal(b.error, -EDQUOT);
    buffer_done(&b);
    b.is_essential = true;
    buffer_append(&b, "0123456789", 10);
    assert_int_equal(b.error, 0);
    assert_int_equal(all.used, 90);
    assert_false(memory_charge_essential(&one, 1));
    assert_false(memory_charge(&one, 0));
    buffer_done(&b);
    assert_int_equal(one.used, 80);
}

static void a_buffer_charges_its_capacity(void **state)
{
    struct memory m = MEMORY_INIT(10000, NULL);
    struct buffer b = BUFFER_INIT_IN(SIZE_MAX, &m);
    (void)state;

    for (size_t i = 0; i < 5000; i++) {
        buffer_append_byte(&b, 'x');
        assert_int_equal(m.used, b.capacity);
    }
    struct buffer moved = b;
    b = BUFFER_INIT_IN(100, &m);
    buffer_append_string(&b, "more");
    assert_int_equal(m.used, moved.capacity + b.capacity);
    assert_int_equal(b.capacity, 100);
    buffer_done(&b);
    buffer_consume(&moved, SIZE_MAX);
    buffer_trim(&moved, 0);
    assert_int_equal(m.used, 0);
    buffer_append_string(&moved, "again");
    assert_int_equal(m.used, 256);
    buffer_wipe(&moved);
    assert_int_equal(m.used, 0);
}

static void a_used_up_account_stops_the_buffer(void **state)
{
    struct memory m = MEMORY_INIT(10000, NULL);
    struct buffer b = BUFFER_INIT_IN(SIZE_MAX, &m);
    size_t n = 0;
    (void)state;

    while (!b.error && n < 20000) {
        buffer_append(&b, "0123456789", 10);
        n += 10;
    }
    assert_int_equal(b.error, -EDQUOT);
    /* Nearly all of it could be used, though doubling would not have allowed that. */
    assert_in_range(buffer_length(&b), 8000, 10000);
    assert_int_equal(m.used, b.capacity);
    assert_memory_equal(buffer_bytes(&b), "0123456789", 10);
    buffer_done(&b);
    assert_int_equal(m.used, 0);
    buffer_append(&b, "x", 1);
    assert_int_equal(b.error, 0);
    buffer_done(&b);
}

static void the_capacity_goes_not_beyond_the_limit(void **state)
{
    struct buffer b = BUFFER_INIT(1000);
    uint8_t bytes[1000] = {1, 2, 3};
    (void)state;

    buffer_append(&b, bytes, 600);
    buffer_append(&b, bytes, 400);
    assert_int_equal(b.capacity, 1000);
    buffer_append_byte(&b, 0);
    assert_int_equal(b.error, -EMSGSIZE);
    b.error = 0;
    for (size_t i = 0; i < 5000; i++) {
        buffer_consume(&b, 7);
        buffer_append(&b, bytes, 7);
    }
    assert_int_equal(b.error, 0);
    assert_int_equal(b.capacity, 1000);
    assert_int_equal(buffer_length(&b), 1000);
    buffer_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_charge_counts_in_the_whole_chain_or_nowhere),
        cmocka_unit_test(what_is_essential_may_take_an_eighth_more),
        cmocka_unit_test(a_buffer_charges_its_capacity),
        cmocka_unit_test(a_used_up_account_stops_the_buffer),
        cmocka_unit_test(the_capacity_goes_not_beyond_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
