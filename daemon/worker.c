#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "config.h"
#include "metrics.h"
#include "multi.h"
#include "server.h"
#include "upstream.h"

int worker_init(struct worker *w, struct log *log)
{
    *w = (struct worker){.log = log};
    STAILQ_INIT(&w->tasks);
    LIST_INIT(&w->finishing);
    loads_init(&w->loads);
    w->memory = MEMORY_INIT(SIZE_MAX, NULL);
    accounts_init(&w->accounts, &w->memory);
    w->metrics = metrics_new();
    w->base = event_base_new();
    if (!w->base || !w->metrics)
        return -ENOMEM;
    return multi_pool_new(w);
}

static void run_tasks(struct worker *w)
{
    struct task *task;

    while ((task = STAILQ_FIRST(&w->tasks))) {
        STAILQ_REMOVE_HEAD(&w->tasks, next);
        task->queued = false;
        task->run(task);
    }
}

static void release_upstreams(struct upstream **upstreams, size_t n)
{
    for (size_t i = 0; i < n; i++)
        upstream_unref(upstreams[i]);
    free(upstreams);
}

void worker_done(struct worker *w)
{
    upstream_cancel_finishing(w);
    run_tasks(w);
    release_upstreams(w->upstreams, w->n_upstreams);
    loads_done(&w->loads);
    multi_pool_free(w);
    config_unref(w->config);
    accounts_done(&w->accounts);
    record_tell_left_out(w);
    metrics_free(w->metrics);
    if (w->base)
        event_base_free(w->base);
    *w = (struct worker){0};
}

int worker_configure(struct worker *w, struct config *config)
{
    size_t n = config->n_upstreams, i;
    struct upstream **upstreams = calloc(n, sizeof *upstreams);

    if (!upstreams)
        return -ENOMEM;
    for (i = 0; i < n; i++) {
        int r = upstream_new(w, config, config->upstreams[i], &upstreams[i]);
        if (r < 0) {
            release_upstreams(upstreams, i);
            return r;
        }
    }
    release_upstreams(w->upstreams, w->n_upstreams);
    w->upstreams = upstreams;
    w->n_upstreams = n;
    config_ref(config);
    config_unref(w->config);
    w->config = config;
    w->memory.limit =
        (uint64_t)config->memory_max_bytes < SIZE_MAX ? (size_t)config->memory_max_bytes : SIZE_MAX;
    if (w->server)
        server_configure(w->server);
    return 0;
}

void worker_defer(struct worker *w, struct task *task)
{
    if (task->queued)
        return;
    task->queued = true;
    STAILQ_INSERT_TAIL(&w->tasks, task, next);
}

void worker_cancel(struct worker *w, struct task *task)
{
    if (task->queued) {
        STAILQ_REMOVE(&w->tasks, task, task, next);
        task->queued = false;
    }
}

int worker_run(struct worker *w)
{
    while (!w->stop) {
        run_tasks(w);
        if (w->stop)
            break;
        w->turn_us = 0;
        /* EVLOOP_ONCE returns when all events of one poll have had their callbacks. */
        if (event_base_loop(w->base, EVLOOP_ONCE) < 0)
            return -EIO;
    }
    run_tasks(w);
    return 0;
}

uint64_t worker_chance(struct worker *w)
{
    if (w->n_chances == 0) {
        arc4random_buf(w->chances, sizeof w->chances);
        w->n_chances = sizeof w->chances / sizeof *w->chances;
    }
    uint64_t chance = w->chances[--w->n_chances];
    /* What was given away is not to be found here. */
    w->chances[w->n_chances] = 0;
    return chance;
}

int64_t worker_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t worker_turn_us(struct worker *w)
{
    if (w->turn_us == 0)
        w->turn_us = worker_now_us();
    return w->turn_us;
}

int worker_arm(struct event *timer, int64_t in_us)
{
    struct timeval tv = {0};

    if (in_us > 0) {
        tv.tv_sec = (time_t)(in_us / 1000000);
        tv.tv_usec = (suseconds_t)(in_us % 1000000);
    }
    return evtimer_add(timer, &tv) == 0 ? 0 : -ENOMEM;
}

int worker_rest(struct event *timer)
{
    return worker_arm(timer, INT64_C(3600000000));
}
