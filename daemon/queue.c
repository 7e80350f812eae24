#include "queue.h"

#include <stdlib.h>

#include "account.h"

/* A user's line at one upstream. There is one while somebody waits or runs in it. */
struct queue_lane {
    TAILQ_ENTRY(queue_lane) turn; /* among the queue's, while is_in_turn */
    LIST_ENTRY(queue_lane) next;  /* among the account's */
    struct queue *queue;
    struct account *account; /* a reference */
    size_t max_running;      /* of the user, as of the last call that joined */
    size_t n_places;
    TAILQ_HEAD(, queue_place) waiting;
    bool is_in_turn;
};

static void run_pump(struct task *task);

void queue_init(struct queue *q, struct worker *worker, size_t max_running, size_t max_waiting)
{
    *q = (struct queue){.worker = worker, .max_running = max_running, .max_waiting = max_waiting};
    q->pump.run = run_pump;
    TAILQ_INIT(&q->turns);
}

void queue_done(struct queue *q)
{
    worker_cancel(q->worker, &q->pump);
}

/* ---- Lanes ---- */

static struct queue_lane *lane_get(struct queue *q, struct account *account)
{
    struct queue_lane *lane;

    /* As many as there are upstreams that the user asks just now. */
    LIST_FOREACH (lane, &account->lanes, next)
        if (lane->queue == q)
            return lane;
    lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    lane->queue = q;
    lane->account = account_ref(account);
    TAILQ_INIT(&lane->waiting);
    LIST_INSERT_HEAD(&account->lanes, lane, next);
    return lane;
}

/* A lane is in turn exactly while somebody waits in it and its user may run more. */
static void lane_update(struct queue_lane *lane)
{
    struct queue *q = lane->queue;
    bool should = !TAILQ_EMPTY(&lane->waiting) && lane->account->n_running < lane->max_running;

    if (should == lane->is_in_turn)
        return;
    lane->is_in_turn = should;
    if (should) {
        TAILQ_INSERT_TAIL(&q->turns, lane, turn);
        if (q->n_running < q->max_running)
            worker_defer(q->worker, &q->pump);
    } else {
        TAILQ_REMOVE(&q->turns, lane, turn);
    }
}

/* The number of the user's running calls has changed. */
static void account_update(struct account *account)
{
    struct queue_lane *lane;

    LIST_FOREACH (lane, &account->lanes, next)
        lane_update(lane);
}

static void place_run(struct queue_place *place)
{
    struct queue_lane *lane = place->lane;

    place->state = QUEUE_RUNNING;
    lane->queue->n_running++;
    lane->account->n_running++;
}

static void run_pump(struct task *task)
{
    struct queue *q = container_of(task, struct queue, pump);
    struct queue_lane *lane;

    while (q->n_running < q->max_running && (lane = TAILQ_FIRST(&q->turns))) {
        struct queue_place *place = TAILQ_FIRST(&lane->waiting);

        TAILQ_REMOVE(&lane->waiting, place, next);
        q->n_waiting--;
        lane->account->n_queued--;
        place_run(place);
        /* To the end of the turns, or out of them. */
        TAILQ_REMOVE(&q->turns, lane, turn);
        lane->is_in_turn = false;
        account_update(lane->account);
        place->start(place);
    }
}

/* ---- Places ---- */

enum queue_answer queue_join(struct queue *q, struct account *account, size_t max_running,
                             size_t max_waiting, struct queue_place *place)
{
    struct queue_lane *lane = lane_get(q, account);

    if (!lane)
        return QUEUE_NO_MEMORY;
    lane->max_running = max_running;
    lane->n_places++;
    place->lane = lane;
    /* Nobody is overtaken. */
    if (q->n_running < q->max_running && TAILQ_EMPTY(&q->turns) && TAILQ_EMPTY(&lane->waiting) &&
        account->n_running < max_running) {
        place_run(place);
        account_update(account);
        return QUEUE_STARTED;
    }
    if (q->n_waiting >= q->max_waiting || account->n_queued >= max_waiting) {
        enum queue_answer answer = q->n_waiting >= q->max_waiting ? QUEUE_FULL : QUEUE_USER_FULL;
        queue_leave(place);
        return answer;
    }
    place->state = QUEUE_WAITING;
    q->n_waiting++;
    account->n_queued++;
    TAILQ_INSERT_TAIL(&lane->waiting, place, next);
    lane_update(lane);
    return QUEUE_WAITS;
}

void queue_leave(struct queue_place *place)
{
    struct queue_lane *lane = place->lane;

    if (!lane)
        return;
    struct queue *q = lane->queue;
    struct account *account = lane->account;

    if (place->state == QUEUE_WAITING) {
        TAILQ_REMOVE(&lane->waiting, place, next);
        q->n_waiting--;
        account->n_queued--;
    } else if (place->state == QUEUE_RUNNING) {
        q->n_running--;
        account->n_running--;
        if (!TAILQ_EMPTY(&q->turns))
            worker_defer(q->worker, &q->pump);
    }
    place->state = QUEUE_OUTSIDE;
    place->lane = NULL;
    account_update(account);
    if (--lane->n_places == 0) {
        LIST_REMOVE(lane, next);
        free(lane);
        account_unref(account);
    }
}
