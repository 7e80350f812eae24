/*
 * One event loop and everything that hangs off it. No module keeps state of its own outside a
 * worker, so that N workers would be N of these.
 *
 * Work that must not be done inside a callback of libevent, nghttp2 or libcurl - freeing, writing,
 * resuming - is deferred to the end of the loop's turn, when none of them is on the stack.
 */
#ifndef WORKER_H
#define WORKER_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "../proto/memory.h"
#include "account.h"
#include "load.h"
#include "record.h"

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* Something to be done at the end of the turn; embedded in what it is about. */
struct task {
    STAILQ_ENTRY(task) next;
    void (*run)(struct task *task);
    bool queued;
};

struct config;
struct log;
struct metrics;
struct multi;
struct scrape;
struct server;
struct transfer;
struct upstream;

struct worker {
    struct event_base *base;
    struct log *log;
    struct config *config;       /* a reference */
    struct multi_pool *multis;   /* libcurl on this loop; see multi_get() */
    struct upstream **upstreams; /* references, in the order of the configuration's */
    size_t n_upstreams;
    struct loads loads; /* of the servers that they consist of */
    struct server *server;
    struct scrape *scrape;    /* the metrics socket, NULL: there is none */
    struct memory memory;     /* of all that callers make us hold */
    struct accounts accounts; /* of the users that call */
    struct metrics *metrics;
    struct record_limit records;
    int64_t turn_us;      /* for worker_turn_us(), 0: not asked yet */
    uint64_t chances[64]; /* for worker_chance() */
    size_t n_chances;
    LIST_HEAD(, transfer) finishing; /* transfers that no call owns any more; upstream.h's */
    bool draining;
    bool stop;
    STAILQ_HEAD(, task) tasks;
};

/* 0 or -ENOMEM. The log is not owned. */
int worker_init(struct worker *w, struct log *log);
void worker_done(struct worker *w);

/* Takes over the configuration (a new reference) for all calls from now on. 0, or -ENOMEM and the
 * old one stays. */
int worker_configure(struct worker *w, struct config *config);

/* Runs task->run(task) at the end of this turn, once, however often it is asked for. A task may
 * free what it is embedded in. */
void worker_defer(struct worker *w, struct task *task);

/* Takes back a task that has not run yet. */
void worker_cancel(struct worker *w, struct task *task);

/* Runs the loop until w->stop. 0, or -EIO if the loop itself failed. */
int worker_run(struct worker *w);

/* A number that nobody can guess. Asks the kernel, which takes a microsecond, for many at once. */
uint64_t worker_chance(struct worker *w);

/* CLOCK_MONOTONIC in microseconds. */
int64_t worker_now_us(void);

/* The same, as of this turn's first question: for limits, and whatever else need not know how long
 * the turn itself takes. A clock is read in 60 ns on virtual machines. */
int64_t worker_turn_us(struct worker *w);

/* Arms a timer that was made by evtimer_assign(); negative microseconds count as 0. 0 or -ENOMEM.
 */
int worker_arm(struct event *timer, int64_t in_us);

/* The same, for a time that nothing happens at: an armed timer has its place, and arming it again
 * can't fail. When it fires all the same, it has to rest again. */
int worker_rest(struct event *timer);

#endif
