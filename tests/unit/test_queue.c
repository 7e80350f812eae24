/* Whose turn it is: users take turns, upstreams and users have limits, nobody is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#include "account.h"
#include "queue.h"

enum { PLACES_MAX = 4096 };

/* A worker that has tasks and nothing else. */
struct fixture {
    struct worker worker;
    struct memory memory;
    struct accounts accounts;
    struct account *users[64];
    struct queue queue;
};

struct caller {
    struct queue_place place;
    unsigned user;
};

static struct caller callers[PLACES_MAX];
static unsigned order[PLACES_MAX], n_order;

static void started(struct queue_place *place)
{
    assert_int_equal(place->state, QUEUE_RUNNING);
    order[n_order++] = container_of(place, struct caller, place)->user;
}

static void run_tasks(struct worker *w)
{
    struct task *task;

    while ((task = STAILQ_FIRST(&w->tasks))) {
        STAILQ_REMOVE_HEAD(&w->tasks, next);
        task->queued = false;
        task->run(task);
    }
}

static void setup(struct fixture *f, size_t max_running, size_t max_waiting)
{
    *f = (struct fixture){.memory = MEMORY_INIT(SIZE_MAX, NULL)};
    STAILQ_INIT(&f->worker.tasks);
    accounts_init(&f->accounts, &f->memory);
    for (size_t i = 0; i < sizeof f->users / sizeof *f->users; i++) {
        f->users[i] = accounts_get(&f->accounts, (uid_t)i, 0);
        assert_non_null(f->users[i]);
    }
    queue_init(&f->queue, &f->worker, max_running, max_waiting);
    for (size_t i = 0; i < PLACES_MAX; i++)
        callers[i] = (struct caller){.place = {.start = started}};
    n_order = 0;
}

static void teardown(struct fixture *f)
{
    assert_int_equal(f->queue.n_running, 0);
    assert_int_equal(f->queue.n_waiting, 0);
    assert_true(TAILQ_EMPTY(&f->queue.turns));
    queue_done(&f->queue);
    for (size_t i = 0; i < sizeof f->users / sizeof *f->users; i++) {
        assert_int_equal(f->users[i]->n_running, 0);
        assert_int_equal(f->users[i]->n_queued, 0);
        assert_true(LIST_EMPTY(&f->users[i]->lanes));
        assert_int_equal(f->users[i]->n_refs, 1);
        account_unref(f->users[i]);
    }
    accounts_done(&f->accounts);
}

static enum queue_answer join(struct fixture *f, unsigned i, unsigned user, size_t max_running,
                              size_t max_waiting)
{
    callers[i].user = user;
    return queue_join(&f->queue, f->users[user], max_running, max_waiting, &callers[i].place);
}

static void leave(struct fixture *f, unsigned i)
{
    queue_leave(&callers[i].place);
    run_tasks(&f->worker);
}

static void who_finds_room_starts_at_once(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 2, 10);
    assert_int_equal(join(&f, 0, 1, 9, 9), QUEUE_STARTED);
    assert_int_equal(join(&f, 1, 1, 9, 9), QUEUE_STARTED);
    assert_int_equal(join(&f, 2, 1, 9, 9), QUEUE_WAITS);
    assert_int_equal(n_order, 0);
    leave(&f, 0);
    assert_int_equal(n_order, 1);
    leave(&f, 1);
    leave(&f, 2);
    /* Again is nothing. */
    leave(&f, 2);
    teardown(&f);
}

static void a_thousand_waiting_calls_delay_another_user_by_one_turn(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 1, PLACES_MAX);
    assert_int_equal(join(&f, 0, 1, PLACES_MAX, PLACES_MAX), QUEUE_STARTED);
    for (unsigned i = 1; i <= 1000; i++)
        assert_int_equal(join(&f, i, 1, PLACES_MAX, PLACES_MAX), QUEUE_WAITS);
    assert_int_equal(join(&f, 1001, 2, PLACES_MAX, PLACES_MAX), QUEUE_WAITS);
    leave(&f, 0);
    leave(&f, 1);
    assert_int_equal(n_order, 2);
    assert_int_equal(order[0], 1);
    assert_int_equal(order[1], 2);
    leave(&f, 1001);
    for (unsigned i = 2; i <= 1000; i++)
        leave(&f, i);
    assert_int_equal(n_order, 1001);
    teardown(&f);
}

static void users_take_turns(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 1, PLACES_MAX);
    assert_int_equal(join(&f, 0, 0, 99, 99), QUEUE_STARTED);
    for (unsigned i = 1; i <= 9; i++)
        assert_int_equal(join(&f, i, 1 + (i - 1) / 3, 99, 99), QUEUE_WAITS);
    /* 1 1 1 2 2 2 3 3 3 waits; 1 2 3 1 2 3 1 2 3 is served. */
    static const unsigned turns[] = {1, 4, 7, 2, 5, 8, 3, 6, 9};
    leave(&f, 0);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(n_order, i + 1);
        assert_int_equal(order[i], 1 + i % 3);
        leave(&f, turns[i]);
    }
    teardown(&f);
}

static void a_user_at_its_limit_steps_aside(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 4, 100);
    assert_int_equal(join(&f, 0, 1, 1, 9), QUEUE_STARTED);
    assert_int_equal(join(&f, 1, 1, 1, 9), QUEUE_WAITS);
    /* It is not in anybody's way. */
    assert_int_equal(join(&f, 2, 2, 1, 9), QUEUE_STARTED);
    run_tasks(&f.worker);
    assert_int_equal(n_order, 0);
    leave(&f, 2);
    assert_int_equal(n_order, 0);
    leave(&f, 0);
    assert_int_equal(n_order, 1);
    leave(&f, 1);
    teardown(&f);
}

static void a_users_limit_holds_over_all_upstreams(void **state)
{
    struct fixture f;
    struct queue other;
    (void)state;

    setup(&f, 4, 100);
    queue_init(&other, &f.worker, 4, 100);
    assert_int_equal(join(&f, 0, 1, 1, 9), QUEUE_STARTED);
    assert_int_equal(queue_join(&other, f.users[1], 1, 9, &callers[1].place), QUEUE_WAITS);
    leave(&f, 0);
    assert_int_equal(callers[1].place.state, QUEUE_RUNNING);
    assert_int_equal(join(&f, 2, 1, 1, 9), QUEUE_WAITS);
    leave(&f, 1);
    assert_int_equal(callers[2].place.state, QUEUE_RUNNING);
    leave(&f, 2);
    queue_done(&other);
    teardown(&f);
}

static void what_is_beyond_the_limits_is_refused(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 1, 3);
    assert_int_equal(join(&f, 0, 1, 9, 2), QUEUE_STARTED);
    assert_int_equal(join(&f, 1, 1, 9, 2), QUEUE_WAITS);
    assert_int_equal(join(&f, 2, 1, 9, 2), QUEUE_WAITS);
    assert_int_equal(join(&f, 3, 1, 9, 2), QUEUE_USER_FULL);
    assert_int_equal(join(&f, 4, 2, 9, 2), QUEUE_WAITS);
    assert_int_equal(join(&f, 5, 3, 9, 2), QUEUE_FULL);
    assert_int_equal(callers[5].place.state, QUEUE_OUTSIDE);
    leave(&f, 3);
    leave(&f, 5);
    for (unsigned i = 0; i < 5; i++)
        leave(&f, i);
    assert_int_equal(n_order, 2);
    teardown(&f);
}

static void who_gives_up_waiting_is_passed_over(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 1, 100);
    assert_int_equal(join(&f, 0, 1, 9, 9), QUEUE_STARTED);
    for (unsigned i = 1; i < 5; i++)
        assert_int_equal(join(&f, i, i % 2, 9, 9), QUEUE_WAITS);
    leave(&f, 1);
    leave(&f, 3);
    leave(&f, 0);
    assert_int_equal(n_order, 1);
    assert_int_equal(order[0], 0);
    leave(&f, 2);
    leave(&f, 4);
    assert_int_equal(n_order, 2);
    teardown(&f);
}

/* Against a model that only counts: limits hold, no slot stays free while somebody could take it.
 */
static void any_order_of_joins_and_leaves(void **state)
{
    enum { RUNNING_MAX = 5, WAITING_MAX = 40, USER_RUNNING_MAX = 2, USER_WAITING_MAX = 8 };
    struct fixture f;
    (void)state;

    srandom(7);
    setup(&f, RUNNING_MAX, WAITING_MAX);
    for (int step = 0; step < 200000; step++) {
        unsigned i = (unsigned)random() % 256;
        struct queue_place *place = &callers[i].place;

        if (place->state == QUEUE_OUTSIDE)
            join(&f, i, (unsigned)random() % 16, USER_RUNNING_MAX, USER_WAITING_MAX);
        else
            queue_leave(place);
        if (random() % 4)
            run_tasks(&f.worker);
        if (n_order > PLACES_MAX / 2)
            n_order = 0;
        assert_true(f.queue.n_running <= RUNNING_MAX);
        assert_true(f.queue.n_waiting <= WAITING_MAX);
        if (!STAILQ_EMPTY(&f.worker.tasks) || f.queue.n_running == RUNNING_MAX)
            continue;
        for (unsigned k = 0; k < 256; k++)
            if (callers[k].place.state == QUEUE_WAITING)
                assert_int_equal(f.users[callers[k].user]->n_running, USER_RUNNING_MAX);
    }
    for (unsigned i = 0; i < 256; i++)
        leave(&f, i);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_finds_room_starts_at_once),
        cmocka_unit_test(a_thousand_waiting_calls_delay_another_user_by_one_turn),
        cmocka_unit_test(users_take_turns),
        cmocka_unit_test(a_user_at_its_limit_steps_aside),
        cmocka_unit_test(a_users_limit_holds_over_all_upstreams),
        cmocka_unit_test(what_is_beyond_the_limits_is_refused),
        cmocka_unit_test(who_gives_up_waiting_is_passed_over),
        cmocka_unit_test(any_order_of_joins_and_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
