/*
 * What one user of the host has going on, over all of its connections: counts, memory, and what is
 * left of its rates. Knows no limits: whoever takes says how much may be taken.
 *
 * An account lives as long as something refers to it, and after that as long as its rates have not
 * recovered: a caller must not get a fresh minute by connecting again.
 *
 * Accounts are all workers'. One lock guards them, and with them all else that workers share and
 * that is more than a number: the queues (queue.h), the places of connections (admission.h), the
 * second's records (record.h). It is held for a few instructions, never over a system call, a
 * message to the log or a callback. Memory is no part of it: memory.h has its own way.
 */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "../proto/memory.h"

struct queue_lane;

/* So much a minute, refilled continuously. Below 0 it is in debt. */
struct rate {
    int64_t per_minute; /* as of the last use; 0: never used */
    int64_t level;      /* millionths of a sixtieth of one */
    int64_t at_us;
};

/* Takes n: 0; else nothing is taken, and it is the microseconds after which n may be there, or -1:
 * never, n is more than a minute's worth. per_minute INT64_MAX: no limit. */
int64_t rate_take(struct rate *r, int64_t per_minute, int64_t n, int64_t now_us);

/* What was taken turned out to be n less, or more if n is negative: a debt, of ten minutes' worth
 * at most. */
void rate_settle(struct rate *r, int64_t n);

/* What is there now, as of the last limit; INT64_MAX if there was none then. */
int64_t rate_left(struct rate *r, int64_t now_us);

struct accounts;

struct account {
    struct accounts *accounts;
    uid_t uid;
    _Atomic unsigned n_refs;
    struct memory memory; /* of its connections and calls */

    /* With the lock. */
    size_t n_connections, n_running, n_queued; /* calls */
    struct rate requests, tokens;
    LIST_HEAD(, queue_lane) lanes; /* queue.c's */
    struct account *next_idle;     /* while accounts are swept */
};

struct accounts {
    pthread_mutex_t lock;
    void *tree; /* tsearch(3)'s, by uid */
    size_t n, n_at_sweep;
    struct memory *total;
};

/* All accounts' memory is shared if the total is. */
void accounts_init(struct accounts *a, struct memory *total);
/* Nothing refers to any account. */
void accounts_done(struct accounts *a);

void accounts_lock(struct accounts *a);
void accounts_unlock(struct accounts *a);

/* The uid's account, with a reference; NULL: out of memory. */
struct account *accounts_get(struct accounts *a, uid_t uid, int64_t now_us);

/* By whoever has a reference. */
struct account *account_ref(struct account *account);
/* Takes NULL; returns NULL. */
struct account *account_unref(struct account *account);

enum account_answer { ACCOUNT_TAKEN, ACCOUNT_REQUESTS_USED_UP, ACCOUNT_TOKENS_USED_UP };

/* Takes one request and so many tokens, or nothing, and then ret_wait_us is rate_take()'s. */
enum account_answer account_take(struct account *account, int64_t requests_per_minute,
                                 int64_t tokens_per_minute, int64_t tokens, int64_t now_us,
                                 int64_t *ret_wait_us);
/* rate_settle() of the tokens. */
void account_settle(struct account *account, int64_t tokens);

/* How an account is at one moment. */
struct account_state {
    uid_t uid;
    size_t n_connections, n_running, n_queued;
    size_t memory_used, memory_limit;
    int64_t requests_left, tokens_left; /* rate_left() */
};

struct account_state account_look(struct account *account, int64_t now_us);
/* All accounts that something refers to, by uid; to be freed. 0 or -ENOMEM. */
int accounts_look(struct accounts *a, int64_t now_us, struct account_state **ret, size_t *ret_n);

#endif
