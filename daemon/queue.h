/*
 * Who may ask an upstream next. An upstream serves so many calls at once, and so does a user; the
 * others wait here, in a line for each user, and the lines take turns: however many calls one user
 * has waiting, the next user's first call is at most one turn away.
 *
 * Within a line those with a lower urgency go first, and among those of the same who came first.
 *
 * A line of a user who may not have more calls at once steps aside and costs nothing until one of
 * the user's calls ends. Joining, leaving and starting take a time that does not depend on how many
 * wait. Starting happens in a task at the end of the turn, never inside a callback.
 *
 * The workers' calls wait in one queue, whose turns are dealt out by whoever leaves it, to calls of
 * its own worker or of others, which are woken. Guarded by the lock of the accounts.
 */
#ifndef QUEUE_H
#define QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include "worker.h"

struct account;
struct accounts;
struct queue_lane;

/* An upstream's. */
struct queue {
    struct accounts *accounts;
    size_t max_running, max_waiting;
    size_t n_running, n_waiting;
    TAILQ_HEAD(, queue_lane) turns; /* lanes one of whose calls may be started */
};

void queue_init(struct queue *q, struct accounts *accounts, size_t max_running, size_t max_waiting);

/* How many calls run and wait. */
void queue_look(struct queue *q, size_t *ret_running, size_t *ret_waiting);

/* Prepares a worker for the turns that its calls are given. */
void queue_init_worker(struct worker *w);

enum { QUEUE_N_URGENCIES = 8, QUEUE_URGENCY_DEFAULT = 3 };

/* What a `priority` says, which may be NULL: RFC 9218, 4.1, "u=0" to "u=7". */
unsigned queue_urgency(const char *priority);

enum queue_state { QUEUE_OUTSIDE, QUEUE_WAITING, QUEUE_RUNNING };

/* One call's place; embedded in the call, zeroed at first but for worker, start and urgency. */
struct queue_place {
    struct worker *worker;                    /* the call's */
    void (*start)(struct queue_place *place); /* its turn has come: it is RUNNING */
    unsigned urgency;                         /* not to be changed while it waits */
    TAILQ_ENTRY(queue_place) next;            /* in its lane, or among the worker's granted */
    struct queue_lane *lane;
    enum queue_state state; /* for the worker to see */
    bool is_granted;        /* WAITING still, but it has its turn; with the lock */
};

enum queue_answer {
    QUEUE_STARTED, /* RUNNING already; start() is not called */
    QUEUE_WAITS,
    QUEUE_FULL,      /* of the upstream */
    QUEUE_USER_FULL, /* the user has as many waiting as it may */
    QUEUE_NO_MEMORY,
};

/* Asks for a turn. The limits are the user's, as of now. Both are for the place's own worker. */
enum queue_answer queue_join(struct queue *q, struct account *account, size_t max_running,
                             size_t max_waiting, struct queue_place *place);

/* The call is over, waiting or running. Nothing if it is outside. */
void queue_leave(struct queue_place *place);

#endif
