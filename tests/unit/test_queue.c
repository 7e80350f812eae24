/* Whose turn it is: users take turns, upstreams and users have limits, nobody is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#include "account.h"
#include "crew.h"
#include "queue.h"

enum { PLACES_MAX = 4096 };

/* Two workers that have tasks and letters, and nothing else. */
struct fixture {
    struct crew crew;
    struct worker worker, other;
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

static void init_worker(struct fixture *f, struct worker *w)
{
    w->crew = &f->crew;
    STAILQ_INIT(&w->tasks);
    STAILQ_INIT(&w->mailbox.letters);
    w->mailbox.pipe[0] = w->mailbox.pipe[1] = -1;
    queue_init_worker(w);
}

static void setup(struct fixture *f, size_t max_running, size_t max_waiting)
{
    *f = (struct fixture){.crew.memory = MEMORY_INIT(SIZE_MAX, NULL)};
    init_worker(f, &f->worker);
    init_worker(f, &f->other);
    accounts_init(&f->crew.accounts, &f->crew.memory);
    for (size_t i = 0; i < sizeof f->users / sizeof *f->users; i++) {
        f->users[i] = accounts_get(&f->crew.accounts, (uid_t)i, 0);
        assert_non_null(f->users[i]);
    }
    queue_init(&f->queue, &f->crew.accounts, max_running, max_waiting);
    for (size_t i = 0; i < PLACES_MAX; i++)
        callers[i] = (struct caller){.place = {.worker = &f->worker, .start = started}};
    n_order = 0;
}

static void teardown(struct fixture *f)
{
    assert_int_equal(f->queue.n_running, 0);
    assert_int_equal(f->queue.n_waiting, 0);
    assert_true(TAILQ_EMPTY(&f->queue.turns));
    for (size_t i = 0; i < sizeof f->users / sizeof *f->users; i++) {
        assert_int_equal(f->users[i]->n_running, 0);
        assert_int_equal(f->users[i]->n_queued, 0);
        assert_true(LIST_EMPTY(&f->users[i]->lanes));
        assert_int_equal(f->users[i]->n_refs, 1);
        account_unref(f->users[i]);
    }
    accounts_done(&f->crew.accounts);
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

static void the_more_urgent_go_first_in_their_users_line(void **state)
{
    static const unsigned urgencies[] = {3, 7, 3, 0, 7, 1, 0, 3};
    static const unsigned expected[] = {4, 7, 6, 1, 3, 8, 2, 5};
    enum { N = sizeof urgencies / sizeof *urgencies };
    struct fixture f;
    (void)state;

    setup(&f, 1, PLACES_MAX);
    assert_int_equal(join(&f, 0, 1, 9, 99), QUEUE_STARTED);
    for (unsigned i = 1; i <= N; i++) {
        callers[i].place.urgency = urgencies[i - 1];
        assert_int_equal(join(&f, i, 1, 9, 99), QUEUE_WAITS);
    }
    /* Another user's turn comes in spite of them. */
    callers[N + 1].place.urgency = 7;
    assert_int_equal(join(&f, N + 1, 2, 9, 99), QUEUE_WAITS);
    for (unsigned i = 0; i <= N; i++)
        callers[i].user = i;
    leave(&f, 0);
    for (unsigned i = 0, k = 0; i <= N; i++) {
        assert_int_equal(n_order, i + 1);
        if (i == 1) {
            assert_int_equal(order[i], 2);
            leave(&f, N + 1);
        } else {
            assert_int_equal(order[i], expected[k]);
            leave(&f, expected[k++]);
        }
    }
    teardown(&f);
}

static void urgency_is_read_as_rfc_9218_has_it(void **state)
{
    static const struct {
        const char *priority;
        unsigned urgency;
    } cases[] = {
        {NULL, 3},        {"", 3},      {"u=0", 0},        {"u=7", 7},          {"u=5, i", 5},
        {"i, u=1", 1},    {"i,u=2", 2}, {"u=4;a=b, i", 4}, {"i=?0,\t u=6 ", 6}, {"u=8", 3},
        {"u=-1", 3},      {"u=10", 3},  {"u", 3},          {"u=", 3},           {"au=1", 3},
        {"x=\"u=1\"", 3}, {",,u=0", 0}, {",", 3},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (queue_urgency(cases[i].priority) != cases[i].urgency)
            fail_msg("\"%s\" is %u", cases[i].priority, queue_urgency(cases[i].priority));
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
    queue_init(&other, &f.crew.accounts, 4, 100);
    assert_int_equal(join(&f, 0, 1, 1, 9), QUEUE_STARTED);
    assert_int_equal(queue_join(&other, f.users[1], 1, 9, &callers[1].place), QUEUE_WAITS);
    leave(&f, 0);
    assert_int_equal(callers[1].place.state, QUEUE_RUNNING);
    assert_int_equal(join(&f, 2, 1, 1, 9), QUEUE_WAITS);
    leave(&f, 1);
    assert_int_equal(callers[2].place.state, QUEUE_RUNNING);
    leave(&f, 2);
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

/* ---- Several workers ---- */

/* Runs what was posted to it. */
static bool run_letters(struct worker *w)
{
    bool had_one = !STAILQ_EMPTY(&w->mailbox.letters);

    worker_finish(w);
    return had_one;
}

static void a_turn_that_one_worker_gives_back_wakes_another(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 1, 100);
    callers[1].place.worker = callers[2].place.worker = &f.other;
    assert_int_equal(join(&f, 0, 1, 9, 9), QUEUE_STARTED);
    assert_int_equal(join(&f, 1, 1, 9, 9), QUEUE_WAITS);
    assert_int_equal(join(&f, 2, 2, 9, 9), QUEUE_WAITS);
    leave(&f, 0);
    /* The turn is taken, though the other one has not looked yet. */
    assert_int_equal(n_order, 0);
    assert_int_equal(callers[1].place.state, QUEUE_WAITING);
    assert_int_equal(f.queue.n_running, 1);
    assert_true(run_letters(&f.other));
    assert_int_equal(n_order, 1);
    /* Its own next call needs no letter. */
    queue_leave(&callers[1].place);
    assert_false(run_letters(&f.other));
    assert_int_equal(n_order, 2);
    assert_int_equal(order[1], 2);
    queue_leave(&callers[2].place);
    teardown(&f);
}

static void who_leaves_before_its_worker_looks_gives_the_turn_on(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 1, 100);
    callers[1].place.worker = &f.other;
    assert_int_equal(join(&f, 0, 1, 9, 9), QUEUE_STARTED);
    assert_int_equal(join(&f, 1, 1, 9, 9), QUEUE_WAITS);
    assert_int_equal(join(&f, 2, 1, 9, 9), QUEUE_WAITS);
    leave(&f, 0);
    queue_leave(&callers[1].place);
    assert_int_equal(callers[1].place.state, QUEUE_OUTSIDE);
    assert_int_equal(f.queue.n_running, 1);
    assert_true(run_letters(&f.worker));
    assert_int_equal(callers[2].place.state, QUEUE_RUNNING);
    /* The letter is for nobody. */
    assert_true(run_letters(&f.other));
    assert_int_equal(n_order, 1);
    leave(&f, 2);
    teardown(&f);
}

static void a_limit_that_grows_lets_the_next_one_in(void **state)
{
    struct fixture f;
    (void)state;

    setup(&f, 4, 100);
    assert_int_equal(join(&f, 0, 1, 1, 9), QUEUE_STARTED);
    assert_int_equal(join(&f, 1, 1, 1, 9), QUEUE_WAITS);
    /* Through another group, say. */
    assert_int_equal(join(&f, 2, 1, 2, 9), QUEUE_WAITS);
    run_tasks(&f.worker);
    assert_int_equal(callers[1].place.state, QUEUE_RUNNING);
    assert_int_equal(callers[2].place.state, QUEUE_WAITING);
    for (unsigned i = 0; i < 3; i++)
        leave(&f, i);
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

        /* Either of the workers'. */
        place->worker = i % 3 ? &f.worker : &f.other;
        if (place->state == QUEUE_OUTSIDE)
            join(&f, i, (unsigned)random() % 16, USER_RUNNING_MAX, USER_WAITING_MAX);
        else
            queue_leave(place);
        if (random() % 4)
            worker_finish(&f.worker);
        if (random() % 4)
            worker_finish(&f.other);
        if (n_order > PLACES_MAX / 2)
            n_order = 0;
        assert_true(f.queue.n_running <= RUNNING_MAX);
        assert_true(f.queue.n_waiting <= WAITING_MAX);
        if (!TAILQ_EMPTY(&f.worker.granted) || !TAILQ_EMPTY(&f.other.granted) ||
            f.queue.n_running == RUNNING_MAX)
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
        cmocka_unit_test(the_more_urgent_go_first_in_their_users_line),
        cmocka_unit_test(urgency_is_read_as_rfc_9218_has_it),
        cmocka_unit_test(users_take_turns),
        cmocka_unit_test(a_user_at_its_limit_steps_aside),
        cmocka_unit_test(a_users_limit_holds_over_all_upstreams),
        cmocka_unit_test(what_is_beyond_the_limits_is_refused),
        cmocka_unit_test(who_gives_up_waiting_is_passed_over),
        cmocka_unit_test(a_turn_that_one_worker_gives_back_wakes_another),
        cmocka_unit_test(who_leaves_before_its_worker_looks_gives_the_turn_on),
        cmocka_unit_test(a_limit_that_grows_lets_the_next_one_in),
        cmocka_unit_test(any_order_of_joins_and_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
