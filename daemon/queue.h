/*
 * Who may ask an upstream next. An upstream serves so many calls at once, and so does a user; the
 * others wait here, in a line for each user, and the lines take turns: however many calls one user
 * has waiting, the next user's first call is at most one turn away.
 *
 * A line of a user who may not have more calls at once steps aside and costs nothing until one of
 * the user's calls ends. Joining, leaving and starting take a time that does not depend on how many
 * wait. Starting happens in a task at the end of the turn, never inside a callback.
 */
#ifndef QUEUE_H
#define QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include "worker.h"

struct account;
struct queue_lane;

/* An upstream's. */
struct queue {
    struct worker *worker;
    struct task pump;
    size_t max_running, max_waiting;
    size_t n_running, n_waiting;
    TAILQ_HEAD(, queue_lane) turns; /* lanes one of whose calls may be started */
};

void queue_init(struct queue *q, struct worker *worker, size_t max_running, size_t max_waiting);
/* Nobody is in it. */
void queue_done(struct queue *q);

enum queue_state { QUEUE_OUTSIDE, QUEUE_WAITING, QUEUE_RUNNING };

/* One call's place; embedded in the call, zeroed at first. */
struct queue_place {
    TAILQ_ENTRY(queue_place) next;
    struct queue_lane *lane;
    enum queue_state state;
    void (*start)(struct queue_place *place); /* its turn has come: it is RUNNING */
};

enum queue_answer {
    QUEUE_STARTED, /* RUNNING already; start() is not called */
    QUEUE_WAITS,
    QUEUE_FULL,      /* of the upstream */
    QUEUE_USER_FULL, /* the user has as many waiting as it may */
    QUEUE_NO_MEMORY,
};

/* Asks for a turn. The limits are the user's, as of now. */
enum queue_answer queue_join(struct queue *q, struct account *account, size_t max_running,
                             size_t max_waiting, struct queue_place *place);

/* The call is over, waiting or running. Nothing if it is outside. */
void queue_leave(struct queue_place *place);

#endif
