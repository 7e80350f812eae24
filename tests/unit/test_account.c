/* What users have used: rates that refill, go into debt and outlive a connection; accounts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#include "account.h"

#define SECOND INT64_C(1000000)

static void a_minutes_worth_is_there_at_once_and_then_drop_by_drop(void **state)
{
    struct rate r = {0};
    (void)state;

    for (int i = 0; i < 60; i++)
        assert_int_equal(rate_take(&r, 60, 1, 5 * SECOND), 0);
    assert_int_equal(rate_take(&r, 60, 1, 5 * SECOND), SECOND);
    assert_int_equal(rate_take(&r, 60, 1, 6 * SECOND - 1), 1);
    assert_int_equal(rate_take(&r, 60, 1, 6 * SECOND), 0);
    assert_int_equal(rate_take(&r, 60, 2, 6 * SECOND), 2 * SECOND);
    /* Never more than a minute's worth. */
    assert_int_equal(rate_left(&r, 1000000 * SECOND), 60);
}

static void what_is_more_than_a_minutes_worth_never_comes(void **state)
{
    struct rate r = {0};
    (void)state;

    assert_int_equal(rate_take(&r, 10, 11, 0), -1);
    assert_int_equal(rate_take(&r, 10, 10, 0), 0);
}

static void no_limit_is_no_limit(void **state)
{
    struct rate r = {0};
    (void)state;

    assert_int_equal(rate_take(&r, INT64_MAX, INT64_MAX / 2, 0), 0);
    assert_int_equal(rate_left(&r, 0), INT64_MAX);
    /* Nor is anything left of a limit that was taken back. */
    assert_int_equal(rate_take(&r, 10, 4, 0), 0);
    assert_int_equal(rate_left(&r, 0), 6);
    assert_int_equal(rate_take(&r, INT64_MAX, 1, 0), 0);
    rate_settle(&r, -5);
    assert_int_equal(rate_left(&r, 0), INT64_MAX);
    rate_settle(&r, 7);
}

static void what_was_not_used_comes_back_and_debts_are_paid(void **state)
{
    struct rate r = {0};
    (void)state;

    assert_int_equal(rate_take(&r, 600, 500, 0), 0);
    rate_settle(&r, 400);
    assert_int_equal(rate_left(&r, 0), 500);
    rate_settle(&r, 1000000);
    assert_int_equal(rate_left(&r, 0), 600);
    assert_int_equal(rate_take(&r, 600, 600, 0), 0);
    rate_settle(&r, -600);
    assert_int_equal(rate_take(&r, 600, 1, 0), 60 * SECOND + SECOND / 10);
    rate_settle(&r, INT64_MIN);
    assert_int_equal(rate_take(&r, 600, 1, 0), 600 * SECOND + SECOND / 10);
    rate_settle(&r, INT64_MAX);
    assert_int_equal(rate_left(&r, 0), 600);
}

static void nonsense_of_an_upstream_is_no_endless_debt(void **state)
{
    struct rate r = {0};
    (void)state;

    /* More than ten minutes' worth. */
    assert_int_equal(rate_take(&r, 600, 600, 0), 0);
    rate_settle(&r, -7000);
    assert_int_equal(rate_take(&r, 600, 1, 0), 600 * SECOND + SECOND / 10);
    /* What fits the unit, but not on top of what is there. */
    r = (struct rate){0};
    assert_int_equal(rate_take(&r, 600, 1, 0), 0);
    rate_settle(&r, INT64_MAX / 60000000);
    assert_int_equal(rate_left(&r, 0), 600);
    r = (struct rate){0};
    assert_int_equal(rate_take(&r, 600, 600, 0), 0);
    rate_settle(&r, -1000);
    rate_settle(&r, INT64_MIN / 60000000);
    assert_int_equal(rate_take(&r, 600, 1, 0), 600 * SECOND + SECOND / 10);
}

static void a_new_limit_keeps_what_was_used(void **state)
{
    struct rate r = {0};
    (void)state;

    assert_int_equal(rate_take(&r, 100, 90, 0), 0);
    assert_int_equal(rate_take(&r, 200, 111, 0) > 0, true);
    assert_int_equal(rate_take(&r, 200, 110, 0), 0);
    assert_true(rate_take(&r, 10, 1, 0) > 0);
}

static void numbers_at_the_edge(void **state)
{
    struct rate r = {0};
    (void)state;

    assert_int_equal(rate_take(&r, 1000000000, 1000000000, 0), 0);
    assert_true(rate_take(&r, 1000000000, 1, 0) > 0);
    assert_int_equal(rate_take(&r, 1000000000, 1000000000, INT64_MAX / 2), 0);
    r = (struct rate){0};
    assert_int_equal(rate_take(&r, 1, 1, INT64_MAX - 1), 0);
    assert_int_equal(rate_take(&r, 1, 1, INT64_MAX - 1), 60 * SECOND);
}

static void a_call_takes_of_both_rates_or_of_none(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct accounts a;
    int64_t wait_us = 0;
    (void)state;

    accounts_init(&a, &total);
    struct account *user = accounts_get(&a, 1, 0);
    assert_int_equal(account_take(user, 2, 100, 60, 0, &wait_us), ACCOUNT_TAKEN);
    assert_int_equal(account_take(user, 2, 100, 60, 0, &wait_us), ACCOUNT_TOKENS_USED_UP);
    assert_int_equal(wait_us, 12 * SECOND);
    struct account_state is = account_look(user, 0);
    assert_int_equal(is.requests_left, 1);
    assert_int_equal(is.tokens_left, 40);
    account_settle(user, 10);
    assert_int_equal(account_take(user, 2, 100, 50, 0, &wait_us), ACCOUNT_TAKEN);
    assert_int_equal(account_take(user, 2, 100, 0, 0, &wait_us), ACCOUNT_REQUESTS_USED_UP);
    assert_int_equal(wait_us, 30 * SECOND);
    /* Looking changes nothing, whenever it is said to be. */
    assert_int_equal(account_look(user, 60 * SECOND).requests_left, 2);
    assert_int_equal(account_look(user, 0).requests_left, 0);
    account_unref(user);
    accounts_done(&a);
}

static void all_who_are_there_are_seen(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct accounts a;
    struct account *users[100];
    struct account_state *states;
    size_t n;
    bool seen[100] = {false};
    (void)state;

    accounts_init(&a, &total);
    assert_int_equal(accounts_look(&a, 0, &states, &n), 0);
    assert_int_equal(n, 0);
    free(states);
    for (uid_t uid = 0; uid < 100; uid++)
        users[uid] = accounts_get(&a, uid, 0);
    for (uid_t uid = 0; uid < 100; uid += 2)
        account_unref(users[uid]);
    users[1]->n_running = 7;
    assert_int_equal(accounts_look(&a, 0, &states, &n), 0);
    assert_int_equal(n, 50);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(states[i].uid % 2, 1);
        assert_false(seen[states[i].uid]);
        seen[states[i].uid] = true;
        assert_int_equal(states[i].n_running, states[i].uid == 1 ? 7 : 0);
    }
    free(states);
    for (uid_t uid = 1; uid < 100; uid += 2)
        account_unref(users[uid]);
    accounts_done(&a);
}

static void a_user_has_one_account(void **state)
{
    struct memory total = MEMORY_INIT(100, NULL);
    struct accounts a;
    (void)state;

    accounts_init(&a, &total);
    struct account *one = accounts_get(&a, 1, 0), *two = accounts_get(&a, 2, 0);
    assert_ptr_equal(accounts_get(&a, 1, 0), one);
    assert_ptr_not_equal(one, two);
    assert_int_equal(one->n_refs, 2);
    one->memory.limit = 60;
    two->memory.limit = 60;
    assert_true(memory_charge(&one->memory, 60));
    assert_false(memory_charge(&one->memory, 1));
    assert_true(memory_charge(&two->memory, 40));
    assert_false(memory_charge(&two->memory, 1));
    memory_release(&one->memory, 60);
    memory_release(&two->memory, 40);
    assert_int_equal(total.used, 0);
    account_unref(one);
    account_unref(one);
    account_unref(two);
    accounts_done(&a);
}

static void connecting_again_gives_no_fresh_minute(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct accounts a;
    (void)state;

    accounts_init(&a, &total);
    struct account *user = accounts_get(&a, 1000, 0);
    assert_int_equal(rate_take(&user->requests, 5, 5, 0), 0);
    account_unref(user);
    /* Many others come and go: what is idle and has recovered is forgotten, this one is not. */
    for (uid_t uid = 2000; uid < 12000; uid++)
        account_unref(accounts_get(&a, uid, 0));
    assert_true(a.n < 200);
    user = accounts_get(&a, 1000, 0);
    assert_true(rate_take(&user->requests, 5, 1, 0) > 0);
    account_unref(user);
    for (uid_t uid = 2000; uid < 12000; uid++)
        account_unref(accounts_get(&a, uid, 61 * SECOND));
    user = accounts_get(&a, 1000, 61 * SECOND);
    assert_int_equal(rate_take(&user->requests, 5, 5, 61 * SECOND), 0);
    account_unref(user);
    accounts_done(&a);
}

/* As many others as it takes for the idle ones to be forgotten. */
static void many_come_and_go(struct accounts *a, int64_t now_us)
{
    for (uid_t uid = 2000; uid < 2200; uid++)
        account_unref(accounts_get(a, uid, now_us));
    assert_true(a->n < 150);
}

static void who_is_connected_or_owes_tokens_is_not_forgotten(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct accounts a;
    (void)state;

    accounts_init(&a, &total);
    struct account *connected = accounts_get(&a, 1000, 0), *owes = accounts_get(&a, 1001, 0);
    assert_int_equal(rate_take(&owes->tokens, 60, 60, 0), 0);
    assert_null(account_unref(owes));
    many_come_and_go(&a, 30 * SECOND);
    assert_ptr_equal(accounts_get(&a, 1000, 30 * SECOND), connected);
    owes = accounts_get(&a, 1001, 30 * SECOND);
    assert_int_equal(rate_left(&owes->tokens, 30 * SECOND), 30);
    account_unref(owes);
    account_unref(connected);
    account_unref(connected);
    assert_null(account_unref(NULL));
    accounts_done(&a);
}

static void who_is_here_is_shown_once_and_in_order(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct account *accounts[50];
    struct account_state *seen;
    struct accounts a;
    size_t n;
    (void)state;

    accounts_init(&a, &total);
    assert_int_equal(accounts_look(&a, 0, &seen, &n), 0);
    assert_int_equal(n, 0);
    free(seen);
    for (unsigned i = 0; i < 50; i++)
        accounts[i] = accounts_get(&a, 7 * i % 50, 0);
    /* Away, and not forgotten yet. */
    for (unsigned i = 0; i < 50; i++)
        if (accounts[i]->uid % 3 == 0)
            accounts[i] = account_unref(accounts[i]);
    assert_int_equal(accounts_look(&a, 0, &seen, &n), 0);
    assert_int_equal(n, 33);
    for (unsigned i = 0, uid = 0; uid < 50; uid++)
        if (uid % 3 != 0)
            assert_int_equal(seen[i++].uid, uid);
    free(seen);
    for (unsigned i = 0; i < 50; i++)
        account_unref(accounts[i]);
    accounts_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_minutes_worth_is_there_at_once_and_then_drop_by_drop),
        cmocka_unit_test(what_is_more_than_a_minutes_worth_never_comes),
        cmocka_unit_test(no_limit_is_no_limit),
        cmocka_unit_test(what_was_not_used_comes_back_and_debts_are_paid),
        cmocka_unit_test(nonsense_of_an_upstream_is_no_endless_debt),
        cmocka_unit_test(a_new_limit_keeps_what_was_used),
        cmocka_unit_test(numbers_at_the_edge),
        cmocka_unit_test(a_call_takes_of_both_rates_or_of_none),
        cmocka_unit_test(all_who_are_there_are_seen),
        cmocka_unit_test(a_user_has_one_account),
        cmocka_unit_test(connecting_again_gives_no_fresh_minute),
        cmocka_unit_test(who_is_connected_or_owes_tokens_is_not_forgotten),
        cmocka_unit_test(who_is_here_is_shown_once_and_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
