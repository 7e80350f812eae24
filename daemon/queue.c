#include "queue.h"

#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "crew.h"

/* A user's line at one upstream. There is one while somebody waits or runs in it. */
struct queue_lane {
    TAILQ_ENTRY(queue_lane) turn; /* among the queue's, while is_in_turn */
    LIST_ENTRY(queue_lane) next;  /* among the account's */
    struct queue *queue;
    struct account *account; /* a reference */
    size_t max_running;      /* of the user, as of the last call that joined */
    size_t n_places, n_waiting;
    TAILQ_HEAD(, queue_place) waiting[QUEUE_N_URGENCIES];
    bool is_in_turn;
};

void queue_init(struct queue *q, struct accounts *accounts, size_t max_running, size_t max_waiting)
{
    *q = (struct queue){
        .accounts = accounts, .max_running = max_running, .max_waiting = max_waiting};
    TAILQ_INIT(&q->turns);
}

void queue_look(struct queue *q, size_t *ret_running, size_t *ret_waiting)
{
    accounts_lock(q->accounts);
    *ret_running = q->n_running;
    *ret_waiting = q->n_waiting;
    accounts_unlock(q->accounts);
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
    for (unsigned i = 0; i < QUEUE_N_URGENCIES; i++)
        TAILQ_INIT(&lane->waiting[i]);
    LIST_INSERT_HEAD(&account->lanes, lane, next);
    return lane;
}

static void lane_leave(struct queue_lane *lane)
{
    if (--lane->n_places > 0)
        return;
    LIST_REMOVE(lane, next);
    account_unref(lane->account);
    free(lane);
}

/* A lane is in turn exactly while somebody waits in it and its user may run more. */
static void lane_update(struct queue_lane *lane)
{
    bool should = lane->n_waiting > 0 && lane->account->n_running < lane->max_running;

    if (should == lane->is_in_turn)
        return;
    lane->is_in_turn = should;
    if (should)
        TAILQ_INSERT_TAIL(&lane->queue->turns, lane, turn);
    else
        TAILQ_REMOVE(&lane->queue->turns, lane, turn);
}

/* The number of the user's running calls has changed. */
static void account_update(struct account *account)
{
    struct queue_lane *lane;

    LIST_FOREACH (lane, &account->lanes, next)
        lane_update(lane);
}

/* ---- Turns ---- */

/* Somebody has got a turn, or given one back. */
static void count_running(struct queue_lane *lane, int n)
{
    lane->queue->n_running += (size_t)n;
    lane->account->n_running += (size_t)n;
    account_update(lane->account);
}

static void count_waiting(struct queue_lane *lane, int n)
{
    lane->n_waiting += (size_t)n;
    lane->queue->n_waiting += (size_t)n;
    lane->account->n_queued += (size_t)n;
}

static void lane_add(struct queue_lane *lane, struct queue_place *place)
{
    TAILQ_INSERT_TAIL(&lane->waiting[place->urgency], place, next);
    count_waiting(lane, 1);
}

static void lane_remove(struct queue_lane *lane, struct queue_place *place)
{
    TAILQ_REMOVE(&lane->waiting[place->urgency], place, next);
    count_waiting(lane, -1);
}

/* Somebody waits in it. */
static struct queue_place *lane_first(const struct queue_lane *lane)
{
    unsigned i = 0;

    while (TAILQ_EMPTY(&lane->waiting[i]))
        i++;
    return TAILQ_FIRST(&lane->waiting[i]);
}

/* Tells the place's worker; self is the one that this is. */
static void grant(struct queue_place *place, struct worker *self)
{
    struct worker *w = place->worker;

    place->is_granted = true;
    TAILQ_INSERT_TAIL(&w->granted, place, next);
    if (w == self)
        worker_defer(w, &w->grants.task);
    else
        worker_post(w, &w->grants);
}

/* Gives the free turns to those who wait. */
static void deal(struct queue *q, struct worker *self)
{
    struct queue_lane *lane;

    while (q->n_running < q->max_running && (lane = TAILQ_FIRST(&q->turns))) {
        struct queue_place *place = lane_first(lane);

        lane_remove(lane, place);
        /* To the end of the turns, or out of them. */
        TAILQ_REMOVE(&q->turns, lane, turn);
        lane->is_in_turn = false;
        count_running(lane, 1);
        grant(place, self);
    }
}

static struct queue_place *next_granted(struct worker *w)
{
    struct queue_place *place = TAILQ_FIRST(&w->granted);

    if (place) {
        TAILQ_REMOVE(&w->granted, place, next);
        place->is_granted = false;
    }
    return place;
}

static void run_grants(struct task *task)
{
    struct worker *w = container_of(task, struct worker, grants.task);
    struct queue_place *place;

    for (;;) {
        accounts_lock(&w->crew->accounts);
        place = next_granted(w);
        accounts_unlock(&w->crew->accounts);
        if (!place)
            return;
        place->state = QUEUE_RUNNING;
        place->start(place);
    }
}

void queue_init_worker(struct worker *w)
{
    TAILQ_INIT(&w->granted);
    w->grants.task.run = run_grants;
}

/* ---- Places ---- */

unsigned queue_urgency(const char *priority)
{
    for (const char *p = priority; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        p += strspn(p, " \t");
        if (p[0] == 'u' && p[1] == '=' && p[2] >= '0' && p[2] < '0' + QUEUE_N_URGENCIES &&
            strchr(" \t,;", p[3])) /* or the end */
            return (unsigned)(p[2] - '0');
    }
    return QUEUE_URGENCY_DEFAULT;
}

/* With the lock. */
static enum queue_answer join(struct queue *q, struct account *account, size_t max_running,
                              size_t max_waiting, struct queue_place *place)
{
    struct queue_lane *lane = lane_get(q, account);

    if (!lane)
        return QUEUE_NO_MEMORY;
    lane->max_running = max_running;
    lane->n_places++;
    /* Nobody is overtaken. */
    if (q->n_running < q->max_running && TAILQ_EMPTY(&q->turns) && lane->n_waiting == 0 &&
        account->n_running < max_running) {
        place->lane = lane;
        count_running(lane, 1);
        return QUEUE_STARTED;
    }
    if (q->n_waiting >= q->max_waiting || account->n_queued >= max_waiting) {
        lane_leave(lane);
        return q->n_waiting >= q->max_waiting ? QUEUE_FULL : QUEUE_USER_FULL;
    }
    place->lane = lane;
    lane_add(lane, place);
    lane_update(lane);
    /* A limit that was raised may let it in, or the one before it. */
    deal(q, place->worker);
    return QUEUE_WAITS;
}

enum queue_answer queue_join(struct queue *q, struct account *account, size_t max_running,
                             size_t max_waiting, struct queue_place *place)
{
    accounts_lock(q->accounts);
    enum queue_answer answer = join(q, account, max_running, max_waiting, place);
    accounts_unlock(q->accounts);
    if (answer == QUEUE_STARTED)
        place->state = QUEUE_RUNNING;
    else if (answer == QUEUE_WAITS)
        place->state = QUEUE_WAITING;
    return answer;
}

/* With the lock. */
static void leave(struct queue_place *place)
{
    struct queue_lane *lane = place->lane;
    struct account *account = lane->account;
    struct queue *q = lane->queue;

    if (place->is_granted) {
        TAILQ_REMOVE(&place->worker->granted, place, next);
        place->is_granted = false;
        count_running(lane, -1);
    } else if (place->state == QUEUE_RUNNING) {
        count_running(lane, -1);
    } else {
        lane_remove(lane, place);
        lane_update(lane);
    }
    lane_leave(lane);
    deal(q, place->worker);
    /* The user may have been what others of its calls waited for. */
    LIST_FOREACH (lane, &account->lanes, next)
        deal(lane->queue, place->worker);
}

void queue_leave(struct queue_place *place)
{
    if (!place->lane)
        return;
    struct accounts *accounts = place->lane->queue->accounts;
    accounts_lock(accounts);
    leave(place);
    accounts_unlock(accounts);
    place->lane = NULL;
    place->state = QUEUE_OUTSIDE;
}
