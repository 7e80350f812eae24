/* Users, their places and their groups while memory runs out: refused, and nothing is left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <grp.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "account.h"
#include "failing_memory.h"
#include "policy.h"
#include "queue.h"
#include "worker.h"

static void a_user_has_an_account_or_none(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct accounts a;
    (void)state;

    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        accounts_init(&a, &total);
        failing_memory_begin(&m);
        struct account *account = accounts_get(&a, 1, 0);
        failing_memory_end(&m);
        assert_int_equal(account == NULL, m.failed);
        assert_int_equal(a.n, account ? 1 : 0);
        account_unref(account);
        /* The next one finds the tree as it was. */
        account = accounts_get(&a, 1, 0);
        assert_non_null(account);
        assert_int_equal(account->n_refs, 1);
        account_unref(account);
        accounts_done(&a);
    }
}

static void a_call_has_a_place_or_none(void **state)
{
    struct memory total = MEMORY_INIT(SIZE_MAX, NULL);
    struct accounts a;
    struct worker worker = {0};
    struct queue queue;
    (void)state;

    accounts_init(&a, &total);
    queue_init(&queue, &a, 1, 1);
    struct account *account = accounts_get(&a, 1, 0);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        struct queue_place place = {.worker = &worker};

        failing_memory_begin(&m);
        enum queue_answer answer = queue_join(&queue, account, 1, 1, &place);
        failing_memory_end(&m);
        assert_int_equal(answer, m.failed ? QUEUE_NO_MEMORY : QUEUE_STARTED);
        assert_int_equal(queue.n_running, m.failed ? 0 : 1);
        queue_leave(&place);
        assert_int_equal(queue.n_running, 0);
        assert_int_equal(account->n_refs, 1);
        assert_true(LIST_EMPTY(&account->lanes));
    }
    account_unref(account);
    accounts_done(&a);
}

/* A caller whose groups are not known might get more than its group's section allows. */
static void a_caller_is_known_with_its_groups_or_not_at_all(void **state)
{
    gid_t before[256];
    int n_before = getgroups(256, before), fds[2];
    (void)state;

    assert_true(n_before >= 0);
    bool is_set = setgroups(2, (const gid_t[]){7, 4000000}) == 0; /* for root only */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        struct caller caller = {0};

        failing_memory_begin(&m);
        int r = caller_init(&caller, fds[0]);
        failing_memory_end(&m);
        assert_int_equal(r, m.failed ? -ENOMEM : 0);
        if (r == 0)
            assert_int_equal(caller.n_groups, getgroups(0, NULL));
        caller_done(&caller);
    }
    close(fds[0]);
    close(fds[1]);
    if (is_set)
        assert_int_equal(setgroups((size_t)n_before, before), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_user_has_an_account_or_none),
        cmocka_unit_test(a_call_has_a_place_or_none),
        cmocka_unit_test(a_caller_is_known_with_its_groups_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
