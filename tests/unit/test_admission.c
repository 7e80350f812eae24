/* Which connections find a place, when one user, or many, want all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "admission.h"

enum { MAX = 320, PER_USER = 240, FEW_PLACES = 40, OPERATOR_PLACES = 11, REFUSED = 16 };

static size_t n_of_user[10000];

static void init(struct admission *a)
{
    admission_init(a, MAX);
    a->operator= 999;
}

static enum admission_verdict enter_one(struct admission *a, uid_t uid)
{
    enum admission_verdict verdict = admission_enter(a, uid, n_of_user[uid], SIZE_MAX);

    n_of_user[uid] += verdict == ADMISSION_WELCOME;
    return verdict;
}

/* How many of n are welcome. */
static size_t enter(struct admission *a, uid_t uid, size_t n)
{
    size_t welcome = 0;

    for (size_t i = 0; i < n; i++) {
        enum admission_verdict verdict = enter_one(a, uid);
        if (verdict == ADMISSION_WELCOME)
            welcome++;
        else if (verdict == ADMISSION_REFUSED)
            admission_leave(a, verdict);
    }
    return welcome;
}

static void leave(struct admission *a, uid_t uid, size_t n)
{
    n_of_user[uid] -= n;
    while (n-- > 0)
        admission_leave(a, ADMISSION_WELCOME);
}

static void one_user_gets_its_share_again_and_again(void **state)
{
    struct admission a;
    (void)state;

    init(&a);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(enter(&a, 1000, 1000), PER_USER);
        leave(&a, 1000, 100);
        assert_int_equal(enter(&a, 1000, 1000), 100);
        leave(&a, 1000, PER_USER);
        assert_int_equal(a.n, 0);
    }
}

static void the_last_places_are_for_those_with_few(void **state)
{
    struct admission a;
    size_t n = PER_USER, n_users = 0;
    (void)state;

    init(&a);
    assert_int_equal(enter(&a, 1000, 1000), PER_USER);
    assert_int_equal(enter(&a, 1001, 1000), MAX - PER_USER - FEW_PLACES - OPERATOR_PLACES);
    n += MAX - PER_USER - FEW_PLACES - OPERATOR_PLACES;
    for (uid_t uid = 2000; n < MAX - OPERATOR_PLACES; uid++, n_users++) {
        assert_int_equal(enter(&a, uid, 4), 4);
        n += 4;
    }
    assert_int_equal(enter(&a, 5000, 10), 0);
    assert_int_equal(enter(&a, 0, 4), 4);
    assert_int_equal(enter(&a, 999, 4), 4);
    assert_int_equal(a.n, n + 8);
    leave(&a, 0, 4);
    leave(&a, 999, 4);
    leave(&a, 1000, PER_USER);
    leave(&a, 1001, MAX - PER_USER - FEW_PLACES - OPERATOR_PLACES);
    for (uid_t uid = 2000; uid < 2000 + n_users; uid++)
        leave(&a, uid, 4);
}

static void few_are_refused_at_a_time(void **state)
{
    struct admission a;
    (void)state;

    init(&a);
    assert_int_equal(enter(&a, 1000, PER_USER), PER_USER);
    for (size_t i = 0; i < REFUSED; i++)
        assert_int_equal(enter_one(&a, 1000), ADMISSION_REFUSED);
    assert_int_equal(enter_one(&a, 1000), ADMISSION_DROPPED);
    assert_int_equal(enter_one(&a, 1001), ADMISSION_WELCOME);
    admission_leave(&a, ADMISSION_REFUSED);
    assert_int_equal(enter_one(&a, 1000), ADMISSION_REFUSED);
    for (size_t i = 0; i < REFUSED; i++)
        admission_leave(&a, ADMISSION_REFUSED);
    leave(&a, 1000, PER_USER);
    leave(&a, 1001, 1);
}

static void a_policy_may_allow_less(void **state)
{
    struct admission a;
    (void)state;

    init(&a);
    assert_int_equal(admission_enter(&a, 1000, 1, 2), ADMISSION_WELCOME);
    assert_int_equal(admission_enter(&a, 1000, 2, 2), ADMISSION_REFUSED);
}

static void small_tables_have_places_too(void **state)
{
    (void)state;
    for (size_t max = 8; max < 100; max++) {
        struct admission a;
        admission_init(&a, max);
        a.operator= 999;
        size_t n = enter(&a, 1000, 1000);
        assert_in_range(n, max / 2, max);
        assert_int_equal(enter(&a, 1001, 1), 1);
        assert_int_equal(enter(&a, 0, 1), 1);
        leave(&a, 1000, n);
        leave(&a, 1001, 1);
        leave(&a, 0, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_user_gets_its_share_again_and_again),
        cmocka_unit_test(the_last_places_are_for_those_with_few),
        cmocka_unit_test(few_are_refused_at_a_time),
        cmocka_unit_test(a_policy_may_allow_less),
        cmocka_unit_test(small_tables_have_places_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
