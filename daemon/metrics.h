/*
 * What is counted and measured, for the metrics socket and the status method: a registry of fixed
 * arrays. Counting takes a few instructions, no memory, and no time that depends on what callers
 * send: every label is one of a list that is known here, or the name of a configured upstream.
 *
 * Each worker counts in a registry of its own, so that no two wait for each other; metrics_add()
 * and what is built on it lets other threads read at the same time. Whoever shows numbers adds all
 * registries up, in one that nobody counts in: exposition.h, status.h.
 */
#ifndef METRICS_H
#define METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { METRICS_UPSTREAMS_MAX = 128, METRICS_STATUSES = 17, METRICS_BUCKETS = 23 };

/* Of times. The last bucket is what lies above all bounds. */
struct metrics_histogram {
    uint64_t buckets[METRICS_BUCKETS + 1];
    uint64_t n, sum_us;
};

/* Counts n more, or less; n is the worker's. Not for more than one thread, but others may read
 * meanwhile (metrics_sum()). As cheap as an addition. */
static inline void metrics_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* Upper bounds, in microseconds, inclusive. */
extern const int64_t metrics_bounds_us[METRICS_BUCKETS];

void metrics_observe(struct metrics_histogram *h, int64_t us);

/* The time that this part (0 to 1) of all were not longer than, interpolated within its bucket; -1
 * if nothing was observed. What lies above all bounds counts as the last of them. */
double metrics_quantile_us(const struct metrics_histogram *h, double part);

enum metrics_method {
    METRICS_CREATE,
    METRICS_CREATE_STREAM,
    METRICS_HEALTH,
    METRICS_STATUS,
    METRICS_OPENAI, /* over HTTP */
    METRICS_OPENAI_STREAM,
    METRICS_OPENAI_MODELS,
    METRICS_OTHER_METHOD,
    METRICS_METHODS,
};
extern const char *const metrics_method_names[METRICS_METHODS];

/* Why calls end otherwise than with OK: PROTOCOL.md's reasons, the last one is "OTHER". */
enum { METRICS_REASONS = 27 };
const char *metrics_reason_name(size_t i);

/* How one attempt to ask an upstream ended. */
enum metrics_outcome {
    METRICS_ATTEMPT_OK,
    METRICS_ATTEMPT_3XX, /* by the response's HTTP status */
    METRICS_ATTEMPT_4XX,
    METRICS_ATTEMPT_429,
    METRICS_ATTEMPT_5XX,
    METRICS_ATTEMPT_UNREACHABLE, /* no connection */
    METRICS_ATTEMPT_TLS,
    METRICS_ATTEMPT_TIMEOUT,   /* of the daemon's own timers */
    METRICS_ATTEMPT_BROKEN,    /* the connection, or the answer was cut */
    METRICS_ATTEMPT_MALFORMED, /* no answer of this API */
    METRICS_ATTEMPT_REPORTED,  /* an error inside a response that began well */
    METRICS_ATTEMPT_DEADLINE,  /* the caller's */
    METRICS_ATTEMPT_CANCELLED, /* by the caller, or for its sake */
    METRICS_ATTEMPT_LOCAL,     /* for want of memory here */
    METRICS_OUTCOMES,
};
extern const char *const metrics_outcome_names[METRICS_OUTCOMES];

/* What the end of a call, or a failure that leads to another attempt, says of the attempt. reason
 * NULL: it went well. http_status 0: no response came. */
enum metrics_outcome metrics_outcome_of(const char *reason, int http_status);

/* Of an upstream's name: it outlives the upstream's configuration. Behind the name nothing but
 * numbers of 64 bits. */
struct metrics_upstream {
    char *name;
    uint64_t calls[METRICS_STATUSES];
    uint64_t attempts[METRICS_OUTCOMES], retries[METRICS_OUTCOMES]; /* by the outcome before */
    uint64_t prompt_tokens, completion_tokens;
    uint64_t connections_opened, connections_reused; /* for requests */
    uint64_t n_running, n_queued;                    /* calls, now */
    struct metrics_histogram queue, connect, first_byte, duration;
};

/* Nothing but numbers of 64 bits. */
struct metrics_totals {
    uint64_t calls[METRICS_METHODS][METRICS_STATUSES];
    uint64_t errors[METRICS_REASONS];
    uint64_t connections, connections_refused; /* of callers */
    uint64_t records_left_out;
    struct metrics_histogram own; /* what calls take in the daemon itself */
};

struct metrics {
    struct metrics_totals totals;
    struct metrics_upstream *upstreams[METRICS_UPSTREAMS_MAX];
    _Atomic size_t n_upstreams;
    struct metrics_upstream others; /* those beyond */
};

/* NULL: out of memory. */
struct metrics *metrics_new(void);
/* Takes NULL; returns NULL. */
struct metrics *metrics_free(struct metrics *m);

/* The entry of that name, made if there is none; never NULL: where there is no place or memory, the
 * one that all others share, whose name is NULL. Not for two threads at once; that of the registry
 * may count meanwhile. */
struct metrics_upstream *metrics_upstream_get(struct metrics *m, const char *name);

/* A call has ended. u may be NULL; reason is NULL with status 0. */
void metrics_count_call(struct metrics *m, struct metrics_upstream *u, enum metrics_method method,
                        int status, const char *reason);

/* Adds what another registry, which may go on counting, has. False: out of memory. */
bool metrics_sum(struct metrics *sum, const struct metrics *part);

/* What was last read of the configuration, and when; of the whole daemon. Microseconds since 1970,
 * or on worker_now_us()'s clock. */
struct metrics_life {
    int64_t start_us, start_time_us; /* on the monotonic and on the real clock */
    _Atomic int64_t config_time_us;  /* when the configuration in force was read */
    _Atomic int64_t reload_time_us;  /* of the last try to read it again; 0: never */
    _Atomic bool reload_failed;
};

/* The configuration has just been read. */
void metrics_life_begin(struct metrics_life *l);
/* It was read again. */
void metrics_life_note_reload(struct metrics_life *l, bool failed);

#endif
