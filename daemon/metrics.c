#include "metrics.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const int64_t metrics_bounds_us[METRICS_BUCKETS] = {
    10,      25,      50,       100,      250,      500,       1000,      2500,
    5000,    10000,   25000,    50000,    100000,   250000,    500000,    1000000,
    2500000, 5000000, 10000000, 25000000, 50000000, 100000000, 250000000,
};

const char *const metrics_method_names[METRICS_METHODS] = {
    [METRICS_CREATE] = "Create",
    [METRICS_CREATE_STREAM] = "CreateStream",
    [METRICS_HEALTH] = "Check",
    [METRICS_STATUS] = "Get",
    [METRICS_OPENAI] = "openai",
    [METRICS_OPENAI_STREAM] = "openai_stream",
    [METRICS_OPENAI_MODELS] = "openai_models",
    [METRICS_OTHER_METHOD] = "other",
};

const char *const metrics_outcome_names[METRICS_OUTCOMES] = {
    [METRICS_ATTEMPT_OK] = "ok",
    [METRICS_ATTEMPT_3XX] = "http_3xx",
    [METRICS_ATTEMPT_4XX] = "http_4xx",
    [METRICS_ATTEMPT_429] = "http_429",
    [METRICS_ATTEMPT_5XX] = "http_5xx",
    [METRICS_ATTEMPT_UNREACHABLE] = "unreachable",
    [METRICS_ATTEMPT_TLS] = "tls",
    [METRICS_ATTEMPT_TIMEOUT] = "timeout",
    [METRICS_ATTEMPT_BROKEN] = "broken",
    [METRICS_ATTEMPT_MALFORMED] = "malformed",
    [METRICS_ATTEMPT_REPORTED] = "reported",
    [METRICS_ATTEMPT_DEADLINE] = "deadline",
    [METRICS_ATTEMPT_CANCELLED] = "cancelled",
    [METRICS_ATTEMPT_LOCAL] = "local",
};

/* What each reason means for an attempt that it ends, if no HTTP status says more. */
static const struct {
    const char *name;
    enum metrics_outcome outcome;
} reasons[METRICS_REASONS] = {
    {"INVALID_REQUEST", METRICS_ATTEMPT_LOCAL},
    {"NOT_ALLOWED", METRICS_ATTEMPT_LOCAL},
    {"NO_UPSTREAM", METRICS_ATTEMPT_LOCAL},
    {"UNKNOWN_METHOD", METRICS_ATTEMPT_LOCAL},
    {"LOCAL_LIMIT", METRICS_ATTEMPT_LOCAL},
    {"LOCAL_QUEUE_FULL", METRICS_ATTEMPT_LOCAL},
    {"OUT_OF_MEMORY", METRICS_ATTEMPT_LOCAL},
    {"UPSTREAM_AUTH", METRICS_ATTEMPT_REPORTED},
    {"UPSTREAM_QUOTA", METRICS_ATTEMPT_REPORTED},
    {"UPSTREAM_RATE_LIMIT", METRICS_ATTEMPT_REPORTED},
    {"UPSTREAM_OVERLOADED", METRICS_ATTEMPT_REPORTED},
    {"UPSTREAM_REDIRECT", METRICS_ATTEMPT_3XX},
    {"UPSTREAM_ERROR", METRICS_ATTEMPT_REPORTED},
    {"WRONG_BASE_URL", METRICS_ATTEMPT_MALFORMED},
    {"BAD_UPSTREAM_RESPONSE", METRICS_ATTEMPT_MALFORMED},
    {"UPSTREAM_TIMEOUT", METRICS_ATTEMPT_TIMEOUT},
    {"STREAM_STALLED", METRICS_ATTEMPT_TIMEOUT},
    {"UPSTREAM_UNREACHABLE", METRICS_ATTEMPT_UNREACHABLE},
    {"UPSTREAM_TLS", METRICS_ATTEMPT_TLS},
    {"UPSTREAM_BROKEN", METRICS_ATTEMPT_BROKEN},
    {"STREAM_TRUNCATED", METRICS_ATTEMPT_BROKEN},
    {"DEADLINE_EXCEEDED", METRICS_ATTEMPT_DEADLINE},
    {"CANCELLED", METRICS_ATTEMPT_CANCELLED},
    {"CALLER_GONE", METRICS_ATTEMPT_CANCELLED},
    {"CALLER_STALLED", METRICS_ATTEMPT_CANCELLED},
    {"SHUTTING_DOWN", METRICS_ATTEMPT_CANCELLED},
    {"OTHER", METRICS_ATTEMPT_REPORTED},
};

static size_t reason_index(const char *reason)
{
    size_t i = 0;

    while (i < METRICS_REASONS - 1 && strcmp(reasons[i].name, reason) != 0)
        i++;
    return i;
}

const char *metrics_reason_name(size_t i)
{
    return reasons[i].name;
}

enum metrics_outcome metrics_outcome_of(const char *reason, int http_status)
{
    if (!reason)
        return METRICS_ATTEMPT_OK;
    if (http_status == 429)
        return METRICS_ATTEMPT_429;
    if (http_status >= 300)
        return http_status < 400   ? METRICS_ATTEMPT_3XX
               : http_status < 500 ? METRICS_ATTEMPT_4XX
                                   : METRICS_ATTEMPT_5XX;
    return reasons[reason_index(reason)].outcome;
}

/* ---- Times ---- */

void metrics_observe(struct metrics_histogram *h, int64_t us)
{
    size_t i = 0;

    if (us < 0)
        us = 0;
    while (i < METRICS_BUCKETS && us > metrics_bounds_us[i])
        i++;
    metrics_add(&h->buckets[i], 1);
    metrics_add(&h->n, 1);
    metrics_add(&h->sum_us, (uint64_t)us);
}

double metrics_quantile_us(const struct metrics_histogram *h, double part)
{
    double wanted = part * (double)h->n, before = 0;

    if (h->n == 0)
        return -1;
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        double in = (double)h->buckets[i];
        double low = i > 0 ? (double)metrics_bounds_us[i - 1] : 0;
        if (in > 0 && before + in >= wanted)
            return low + ((double)metrics_bounds_us[i] - low) * (wanted - before) / in;
        before += in;
    }
    return (double)metrics_bounds_us[METRICS_BUCKETS - 1];
}

/* ---- The registry ---- */

struct metrics *metrics_new(void)
{
    return calloc(1, sizeof(struct metrics));
}

struct metrics *metrics_free(struct metrics *m)
{
    for (size_t i = 0; m && i < m->n_upstreams; i++) {
        free(m->upstreams[i]->name);
        free(m->upstreams[i]);
    }
    free(m);
    return NULL;
}

struct metrics_upstream *metrics_upstream_get(struct metrics *m, const char *name)
{
    for (size_t i = 0; i < m->n_upstreams; i++)
        if (!strcmp(m->upstreams[i]->name, name))
            return m->upstreams[i];
    if (m->n_upstreams == METRICS_UPSTREAMS_MAX)
        return &m->others;
    struct metrics_upstream *u = calloc(1, sizeof *u);
    if (!u || !(u->name = strdup(name))) {
        free(u);
        return &m->others;
    }
    /* Others may look at the list: the entry comes first. */
    m->upstreams[m->n_upstreams] = u;
    m->n_upstreams++;
    return u;
}

void metrics_count_call(struct metrics *m, struct metrics_upstream *u, enum metrics_method method,
                        int status, const char *reason)
{
    size_t i = status >= 0 && status < METRICS_STATUSES ? (size_t)status : 2; /* UNKNOWN */

    metrics_add(&m->totals.calls[method][i], 1);
    if (u)
        metrics_add(&u->calls[i], 1);
    if (reason)
        metrics_add(&m->totals.errors[reason_index(reason)], 1);
}

/* ---- The sum of several ---- */

static void add_words(void *sum, const void *part, size_t size)
{
    uint64_t *to = sum;
    const uint64_t *from = part;

    for (size_t i = 0; i < size / sizeof *to; i++)
        to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static void add_upstream(struct metrics_upstream *sum, const struct metrics_upstream *part)
{
    const size_t first = offsetof(struct metrics_upstream, calls);

    add_words((char *)sum + first, (const char *)part + first, sizeof *sum - first);
}

bool metrics_sum(struct metrics *sum, const struct metrics *part)
{
    size_t n = part->n_upstreams;

    add_words(&sum->totals, &part->totals, sizeof sum->totals);
    for (size_t i = 0; i < n; i++) {
        struct metrics_upstream *u = metrics_upstream_get(sum, part->upstreams[i]->name);
        if (u == &sum->others && sum->n_upstreams < METRICS_UPSTREAMS_MAX)
            return false;
        add_upstream(u, part->upstreams[i]);
    }
    add_upstream(&sum->others, &part->others);
    return true;
}

/* ---- The daemon's life ---- */

static int64_t time_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void metrics_life_begin(struct metrics_life *l)
{
    int64_t now = time_us(CLOCK_REALTIME);

    *l = (struct metrics_life){
        .start_us = time_us(CLOCK_MONOTONIC), .start_time_us = now, .config_time_us = now};
}

void metrics_life_note_reload(struct metrics_life *l, bool failed)
{
    int64_t now = time_us(CLOCK_REALTIME);

    if (!failed)
        l->config_time_us = now;
    l->reload_time_us = now;
    l->reload_failed = failed;
}
