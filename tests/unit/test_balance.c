/* Which server is asked next, and that what is known of servers outlives a configuration. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "balance.h"

#define SECOND INT64_C(1000000)

enum { N = 4 };

struct fixture {
    struct loads loads;
    struct load *list[N];
    struct balance balance;
    uint64_t chance;
    int64_t wait_us;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    loads_init(&f->loads);
    for (size_t i = 0; i < N; i++) {
        const char name[] = {(char)('0' + i), '\0'};
        f->list[i] = load_get(&f->loads, "u", name);
        assert_non_null(f->list[i]);
    }
    f->balance = (struct balance){.loads = f->list, .n = N};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < N; i++)
        load_unref(f->list[i]);
    loads_done(&f->loads);
    free(f);
    return 0;
}

static int choose(struct fixture *f, uint64_t tried, int64_t now_us)
{
    return balance_choose(&f->balance, tried, f->chance++, now_us, &f->wait_us);
}

static void fail_at(struct fixture *f, int at, unsigned n_times, int64_t now_us)
{
    while (n_times-- > 0)
        load_report(f->list[at], false, now_us);
}

static void chance_decides_among_equals(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 9; i++)
        assert_int_equal(choose(f, 0, 0), i % N);
}

static void the_least_loaded_is_chosen(void **state)
{
    struct fixture *f = *state;

    for (int least = 0; least < N; least++) {
        for (f->chance = 0; f->chance < N;) {
            for (int i = 0; i < N; i++)
                f->list[i]->n_running = i == least ? 2 : 3;
            assert_int_equal(choose(f, 0, 0), least);
        }
    }
    /* Calls that never end fill them evenly, whatever was there before. */
    for (int i = 0; i < N; i++)
        f->list[i]->n_running = i == 2 ? 10 : 0;
    for (int i = 0; i < 30; i++)
        f->list[choose(f, 0, 0)]->n_running++;
    for (int i = 0; i < N; i++)
        assert_int_equal(f->list[i]->n_running, 10);
}

static void what_failed_rests_and_one_call_finds_out(void **state)
{
    struct fixture *f = *state;

    load_fault(f->list[1], 0, 0);
    for (int i = 0; i < 8; i++)
        assert_int_not_equal(choose(f, 0, SECOND - 1), 1);
    for (int i = 0; i < N; i++)
        f->list[i]->n_running = i == 1 ? 0 : 5;
    assert_int_equal(choose(f, 0, SECOND), 1);
    for (int i = 0; i < 8; i++)
        assert_int_not_equal(choose(f, 0, SECOND), 1);
    load_recover(f->list[1], SECOND + 1);
    assert_int_equal(choose(f, 0, SECOND + 1), 1);
}

static void a_call_that_failed_does_not_find_out(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 3; i++)
        load_fault(f->list[i], 0, 0);
    f->list[3]->n_running = 100;
    /* All but the last could be tried again. */
    assert_int_equal(choose(f, 1 << 0, 2 * SECOND), 3);
    assert_false(balance_has_other(&f->balance, 1 << 3, 2 * SECOND));
    assert_true(balance_has_other(&f->balance, 1 << 0, 2 * SECOND));
    assert_int_equal(choose(f, 1 << 3, 2 * SECOND), 3);
}

static void what_was_asked_comes_last_among_equals(void **state)
{
    struct fixture *f = *state;
    uint64_t tried = 0;

    for (int i = 0; i < N; i++) {
        int at = choose(f, tried, 0);
        assert_false(tried >> at & 1);
        tried |= UINT64_C(1) << at;
        assert_int_equal(balance_has_other(&f->balance, tried, 0), i < N - 1);
    }
    assert_true(choose(f, tried, 0) >= 0);
    /* One that is well before one that rests, asked or not. */
    for (int i = 1; i < N; i++)
        load_fault(f->list[i], 0, 0);
    assert_int_equal(choose(f, 1, 0), 0);
}

static void where_all_rest_those_that_answer_are_asked(void **state)
{
    struct fixture *f = *state;

    fail_at(f, 0, 1, 0);
    fail_at(f, 1, 8, 0);
    load_fault(f->list[2], 0, 0);
    load_fault(f->list[3], 0, 0);
    f->list[2]->n_running = f->list[3]->n_running = 7;
    for (int i = 0; i < 8; i++)
        assert_in_range(choose(f, 0, 1), 2, 3);
    fail_at(f, 2, 8, 1);
    fail_at(f, 3, 8, 1);
    /* Then the one that failed least. */
    assert_int_equal(choose(f, 0, 2), 0);
    assert_int_equal(balance_n_open(&f->balance), 3);
}

static void where_none_can_be_reached_each_is_tried_once_a_second(void **state)
{
    struct fixture *f = *state;
    bool tried[N] = {false};

    for (int i = 0; i < N; i++)
        fail_at(f, i, 8, i);
    assert_int_equal(balance_n_open(&f->balance), N);
    assert_int_equal(choose(f, 0, 10), -1);
    assert_int_equal(f->wait_us, SECOND - 10);
    for (int i = 0; i < N; i++) {
        int at = choose(f, 0, SECOND + N);
        assert_true(at >= 0 && !tried[at]);
        tried[at] = true;
    }
    assert_int_equal(choose(f, 0, SECOND + N), -1);
    assert_int_equal(f->wait_us, SECOND);
    load_report(f->list[2], true, SECOND + N);
    assert_int_equal(choose(f, 0, SECOND + N), 2);
    assert_int_equal(choose(f, 0, SECOND + N), 2);
}

static void a_single_one_is_asked_until_it_can_not_be_reached(void **state)
{
    struct fixture *f = *state;

    f->balance.n = 1;
    for (int i = 0; i < 100; i++) {
        load_fault(f->list[0], 0, i);
        assert_int_equal(choose(f, 1, i), 0);
        assert_false(balance_has_other(&f->balance, 1, i));
    }
    fail_at(f, 0, 8, 100);
    assert_int_equal(choose(f, 0, 101), -1);
    assert_int_equal(choose(f, 0, 100 + SECOND), 0);
    assert_int_equal(choose(f, 0, 101 + SECOND), -1);
}

/* ---- Threads ---- */

enum { THREADS = 4, ROUNDS = 20000 };

/* Calls that go well at three servers, and fail at the last in every way. */
static void *call_many(void *user)
{
    struct fixture *f = user;
    int64_t wait_us;

    for (int i = 0; i < ROUNDS; i++) {
        int64_t now_us = (int64_t)i * 1000;
        int at = balance_choose(&f->balance, 0, (uint64_t)i, now_us, &wait_us);
        struct load *l = f->list[at];
        l->n_running++;
        l->n_asked++;
        if (at < N - 1)
            load_recover(l, now_us);
        else if (i % 3 == 0)
            load_fault(l, 0, now_us);
        else
            load_report(l, i % 3 == 1, now_us);
        l->n_running--;
    }
    return NULL;
}

static void threads_may_share_what_is_known(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[THREADS];
    uint64_t n_asked = 0;

    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_many, f), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(f->list[i]->n_running, 0);
        n_asked += f->list[i]->n_asked;
        assert_int_equal(f->list[i]->n_faults > 0, i == N - 1);
    }
    assert_int_equal(n_asked, THREADS * ROUNDS);
    /* Three well ones, of which none is ever left alone. */
    assert_true(f->list[N - 1]->n_asked < n_asked / 4);
}

static void what_is_known_of_a_server_is_shared_by_its_name(void **state)
{
    struct loads loads;
    (void)state;

    loads_init(&loads);
    struct load *a = load_get(&loads, "u", "http://a"), *b = load_get(&loads, "u", "http://b");
    struct load *other = load_get(&loads, "v", "http://a");

    assert_true(a && b && other && a != b && a != other);
    assert_ptr_equal(load_get(&loads, "u", "http://a"), a);
    a->n_running = 3;
    load_unref(a);
    assert_int_equal(load_get(&loads, "u", "http://a")->n_running, 3);
    load_unref(a);
    load_unref(a);
    /* Nobody had it any more. */
    a = load_get(&loads, "u", "http://a");
    assert_int_equal(a->n_running, 0);
    assert_null(load_unref(a));
    assert_null(load_unref(b));
    assert_null(load_unref(other));
    assert_null(load_unref(NULL));
    assert_true(LIST_EMPTY(&loads.list));
    loads_done(&loads);
}

#define balance_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        balance_test(chance_decides_among_equals),
        balance_test(the_least_loaded_is_chosen),
        balance_test(what_failed_rests_and_one_call_finds_out),
        balance_test(a_call_that_failed_does_not_find_out),
        balance_test(what_was_asked_comes_last_among_equals),
        balance_test(where_all_rest_those_that_answer_are_asked),
        balance_test(where_none_can_be_reached_each_is_tried_once_a_second),
        balance_test(a_single_one_is_asked_until_it_can_not_be_reached),
        balance_test(threads_may_share_what_is_known),
        cmocka_unit_test(what_is_known_of_a_server_is_shared_by_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
