/*
 * One event loop and everything that hangs off it. No module keeps state of its own outside a
 * worker, so that N workers are N of these, each on a thread of its own (crew.h).
 *
 * What belongs to whom:
 * - The worker's own, which no other thread looks at and no lock guards: the loop, its timers and
 *   tasks, connections, sessions, calls, transfers, libcurl's handles, look-ups of names.
 * - The worker's to change and everybody's to read, by atomics: what metrics count, the number of
 *   its connections.
 * - All workers': the crew, with the accounts of users. What is more than a number is guarded by
 *   the lock of the accounts (account.h), what is a number is atomic: memory, an upstream's breaker
 *   and budget of retries, references to a configuration. The log has a lock of its own.
 * - What one worker wants of another goes by letter.
 *
 * A thread holds one of these locks at a time, but for those of letters: they may be taken while
 * that of the accounts is held. With one worker nobody ever waits for a lock, no letter is sent,
 * and there is no descriptor for them.
 *
 * Work that must not be done inside a callback of libevent, nghttp2 or libcurl - freeing, writing,
 * resuming - is deferred to the end of the loop's turn, when none of them is on the stack.
 */
#ifndef WORKER_H
#define WORKER_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* Something to be done at the end of the turn; embedded in what it is about. */
struct task {
    STAILQ_ENTRY(task) next;
    void (*run)(struct task *task);
    bool queued;
};

/* A task that any thread may ask for. */
struct letter {
    struct task task;
    STAILQ_ENTRY(letter) next;
    bool is_posted;
};

struct config;
struct crew;
struct log;
struct metrics;
struct queue_place;
struct server;
struct transfer;
struct upstream;
struct upstream_shared;

struct worker {
    struct event_base *base;
    struct crew *crew;
    size_t number; /* from 0 on, which is the main thread's */
    struct log *log;
    struct config *config;       /* a reference */
    struct multi_pool *multis;   /* libcurl on this loop; see multi_get() */
    struct upstream **upstreams; /* references, in the order of the configuration's */
    size_t n_upstreams;
    struct server *server;
    struct metrics *metrics; /* what this worker has counted */
    int64_t turn_us;         /* for worker_turn_us(), 0: not asked yet */
    uint64_t chances[64];    /* for worker_chance() */
    size_t n_chances;
    LIST_HEAD(, transfer) finishing; /* transfers that no call owns any more; upstream.h's */
    bool draining;
    bool stop;
    STAILQ_HEAD(, task) tasks;

    /* Others', too: with the lock of the accounts. */
    TAILQ_HEAD(, queue_place) granted; /* calls whose turn has come; queue.c's */
    struct letter grants;

    /* With its own lock. */
    struct mailbox {
        pthread_mutex_t lock;
        STAILQ_HEAD(, letter) letters;
        int pipe[2]; /* a byte in it: look; -1: there is nobody who writes */
        struct event event;
    } mailbox;
};

/* 0 or negative errno; worker_done() in any case. */
int worker_init(struct worker *w, struct crew *crew, size_t number);
/* Of a loop that does not run any more. The server is gone. */
void worker_done(struct worker *w);

/* A configuration, made ready for one worker: references and all that takes memory. */
struct provision;

/* shared: for each of the configuration's upstreams. May be done by another thread than the
 * worker's, but not by two at once. 0 or -ENOMEM. */
int worker_provide(struct worker *w, struct config *config, struct upstream_shared *const *shared,
                   struct provision **ret);
/* One that nobody wants. Takes NULL; returns NULL. */
struct provision *provision_free(struct provision *p);
/* Takes it over: it holds for all calls from now on. */
void worker_adopt(struct worker *w, struct provision *p);

/* Runs task->run(task) at the end of this turn, once, however often it is asked for. A task may
 * free what it is embedded in. */
void worker_defer(struct worker *w, struct task *task);

/* Takes back a task that has not run yet. */
void worker_cancel(struct worker *w, struct task *task);

/* The same on the worker's thread, from any thread, in the order of posting. A letter that is
 * posted already and has not been taken stays where it is. */
void worker_post(struct worker *w, struct letter *letter);
/* It has not been taken yet. */
bool worker_has_letter(struct worker *w, const struct letter *letter);

/* What is to be done at the end of a turn, and what was posted: for a loop that does not run any
 * more. */
void worker_finish(struct worker *w);

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
