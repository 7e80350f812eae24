/*
 * What is known of a server beyond one configuration: how many of our calls it has, how it has
 * been, and how often it was asked. Upstreams of an old configuration, whose last calls still run,
 * and of the one that holds share it, so that a reload forgets nothing of the servers that it
 * leaves.
 *
 * Threads may share it. While a server is well nothing here waits for a lock.
 */
#ifndef LOAD_H
#define LOAD_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "breaker.h"

struct loads {
    pthread_mutex_t lock; /* of the list and its references */
    LIST_HEAD(, load) list;
};

struct load {
    struct loads *loads;
    LIST_ENTRY(load) next;
    unsigned n_refs;
    char *upstream, *base_url; /* who it is */

    _Atomic size_t n_running;           /* calls that it has now */
    _Atomic uint64_t n_asked, n_faults; /* requests, and those that were told as faults below */
    struct breaker breaker;             /* to be looked at */
    pthread_mutex_t lock;               /* of who changes that */
};

void loads_init(struct loads *loads);
/* Nothing is in it. */
void loads_done(struct loads *loads);

/* With a new reference; made if there is none. NULL: out of memory. */
struct load *load_get(struct loads *loads, const char *upstream, const char *base_url);
/* Takes NULL; returns NULL. */
struct load *load_unref(struct load *l);

/* The breaker's functions of these names. */
void load_try(struct load *l, int64_t now_us);
unsigned load_report(struct load *l, bool reached, int64_t now_us);
unsigned load_fault(struct load *l, int64_t least_us, int64_t now_us);
unsigned load_recover(struct load *l, int64_t now_us);

#endif
