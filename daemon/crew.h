/*
 * All workers of the process, and what they have in common. The first is the main thread's: it
 * hears signals, reads configurations, accepts connections, and tells the others what to do, by
 * letter; those have a thread each, as many as the configuration's `workers` says at start.
 *
 * One thread accepts for all, and gives each connection to the worker that has the fewest: no
 * worker has two more than another because it woke up first, and none wakes up for nothing. From
 * then on the connection and its calls are that worker's alone.
 *
 * All functions are for the main thread, where nothing else is said.
 */
#ifndef CREW_H
#define CREW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../proto/memory.h"
#include "account.h"
#include "admission.h"
#include "config.h"
#include "load.h"
#include "metrics.h"
#include "record.h"
#include "worker.h"

enum { CREW_MAX = CONFIG_WORKERS_MAX };

struct crew_member;

struct crew {
    struct log *log; /* not owned */
    struct crew_member *members[CREW_MAX];
    size_t n_workers, n_threads;
    size_t next; /* to be given a connection, if others have as many */

    struct memory memory; /* of all that callers make us hold */
    struct accounts accounts;
    struct loads loads;          /* of upstreams' servers */
    struct admission admission;  /* with the accounts' lock */
    struct record_limit records; /* with the accounts' lock */
    struct metrics_life life;
    _Atomic int64_t left_us;           /* when a connection was last over, or the start */
    _Atomic int64_t last_complaint_us; /* server_complain()'s */

    _Atomic int64_t drain_deadline_us;
    unsigned n_configured; /* how often */
    bool is_adopting;      /* not all go by the last configuration yet */
    struct letter report;  /* from a worker to the main thread: look what has been done */
    _Atomic int failure;   /* of a worker's loop, negative errno */
    void (*adopted)(void *user);
    void *user;
    unsigned n_looks;                 /* how often they were asked */
    uint64_t n_given, n_given_before; /* connections; and when they were asked */
    bool is_looking;                  /* not all have answered yet */
    void (*looked)(void *user);
    void *looked_user;
};

/* Makes n workers, and no threads. 0 or negative errno; crew_done() in any case. The log is not
 * owned. */
int crew_init(struct crew *c, struct log *log, size_t n);
/* Ends the threads, and everything at once. */
void crew_done(struct crew *c);

/* Worker number i; the main thread's is 0. Of any thread. */
struct worker *crew_worker(const struct crew *c, size_t i);

/* All workers go by this configuration from now on (references of their own): the main thread's at
 * once, the others as soon as they look. 0: all do; 1: some do not yet, and adopted(user) is called
 * when they do, before which there must not be another; -ENOMEM: all stays with all of them as it
 * was. */
int crew_configure(struct crew *c, struct config *config, void (*adopted)(void *user), void *user);
bool crew_is_adopting(const struct crew *c);

/* Takes over the listening descriptors. 0, or negative errno and nothing is taken. */
int crew_serve(struct crew *c, const int *fds, size_t n_fds);

/* Starts the other workers' threads, with all signals blocked. 0, or negative errno, and it has
 * been said in the log. */
int crew_start(struct crew *c);

/* Runs the main thread's loop until crew_stop(), and ends the other threads. 0, or -EIO if one of
 * the loops failed. */
int crew_run(struct crew *c);
void crew_stop(struct crew *c);

/* server_drain() of all of them; then crew_run() returns. A second time it can only get shorter. */
void crew_drain(struct crew *c, int64_t timeout_us);

/* Whether the loops of all workers have turned since this was last asked, and asks them. */
bool crew_is_alive(struct crew *c);

/* Asks all workers whether somebody needs them (server_is_used()), and calls looked(user) when all
 * have answered, which may be at once. Asked again meanwhile it is the same question. */
void crew_look(struct crew *c, void (*looked)(void *user), void *user);
/* What they said, and since when that has been so if nobody does. */
bool crew_is_used(const struct crew *c);
int64_t crew_unused_since_us(const struct crew *c);

/* Descriptors have run out: multi_pool_shed() of all workers. */
void crew_shed(struct crew *c);

/* Who has the fewest connections. */
struct worker *crew_choose(struct crew *c);

/* Of all workers, those on their way to one among them. Of any thread. */
size_t crew_n_connections(const struct crew *c);
/* The sum of what all have counted, to be freed; NULL: out of memory. Of any thread. */
struct metrics *crew_metrics(const struct crew *c);

#endif
