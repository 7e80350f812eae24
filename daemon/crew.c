#include "crew.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "event_memory.h"
#include "log.h"
#include "multi.h"
#include "server.h"
#include "upstream.h"

/* A worker, and what the main thread wants of it. On cache lines of its own. */
struct crew_member {
    _Alignas(64) struct worker worker;
    pthread_t thread;
    struct letter adopt, drain, look, shed, ping, stop;
    struct provision *provision; /* to be adopted */
    _Atomic unsigned n_adopted;  /* the crew's n_configured then */
    unsigned n_provided;         /* the same of the provision */
    _Atomic bool is_drained;
    _Atomic unsigned n_looked; /* the crew's n_looks of what follows */
    _Atomic bool is_used;
    _Atomic int64_t unused_since_us;
};

struct worker *crew_worker(const struct crew *c, size_t i)
{
    return &c->members[i]->worker;
}

static struct crew_member *member_of(struct worker *w)
{
    return container_of(w, struct crew_member, worker);
}

/* ---- What workers say ---- */

static bool all_have_adopted(const struct crew *c)
{
    for (size_t i = 0; i < c->n_workers; i++)
        if (c->members[i]->n_adopted != c->n_configured)
            return false;
    return true;
}

static bool all_are_drained(const struct crew *c)
{
    for (size_t i = 0; i < c->n_workers; i++)
        if (!c->members[i]->is_drained)
            return false;
    return true;
}

static bool all_have_looked(const struct crew *c)
{
    for (size_t i = 0; i < c->n_workers; i++)
        if (c->members[i]->n_looked != c->n_looks)
            return false;
    return true;
}

static void run_report(struct task *task)
{
    struct crew *c = container_of(task, struct crew, report.task);

    if (c->is_adopting && all_have_adopted(c)) {
        c->is_adopting = false;
        c->adopted(c->user);
    }
    if (c->is_looking && all_have_looked(c)) {
        c->is_looking = false;
        c->looked(c->looked_user);
    }
    if (c->failure != 0 || all_are_drained(c))
        crew_stop(c);
}

static void report(struct worker *w)
{
    struct crew *c = w->crew;

    if (w->number == 0)
        worker_defer(w, &c->report.task);
    else
        worker_post(crew_worker(c, 0), &c->report);
}

/* ---- What they are told ---- */

static void run_adopt(struct task *task)
{
    struct crew_member *m = container_of(task, struct crew_member, adopt.task);

    worker_adopt(&m->worker, m->provision);
    m->provision = NULL;
    m->n_adopted = m->n_provided;
    report(&m->worker);
}

static void on_drained(struct worker *w)
{
    member_of(w)->is_drained = true;
    report(w);
}

static void run_drain(struct task *task)
{
    struct crew_member *m = container_of(task, struct crew_member, drain.task);
    struct worker *w = &m->worker;
    int64_t deadline_us = w->crew->drain_deadline_us;

    w->draining = true;
    server_drain(w->server, deadline_us, on_drained);
}

static void run_look(struct task *task)
{
    struct crew_member *m = container_of(task, struct crew_member, look.task);
    int64_t since_us;

    m->is_used = server_is_used(m->worker.server, &since_us);
    m->unused_since_us = since_us;
    m->n_looked = m->worker.crew->n_looks;
    report(&m->worker);
}

static void run_shed(struct task *task)
{
    multi_pool_shed(&container_of(task, struct crew_member, shed.task)->worker);
}

/* The answer is that it was taken. */
static void run_ping(struct task *task)
{
    (void)task;
}

static void run_stop(struct task *task)
{
    container_of(task, struct crew_member, stop.task)->worker.stop = true;
}

/* The main thread's own at once, as those of others that have no threads. */
static void tell(struct crew *c, struct crew_member *m, struct letter *letter)
{
    if (m->worker.number == 0 || c->n_threads == 0)
        letter->task.run(&letter->task);
    else
        worker_post(&m->worker, letter);
}

/* ---- Life ---- */

int crew_init(struct crew *c, struct log *log, size_t n)
{
    int r = 0;

    *c = (struct crew){.log = log, .n_workers = n, .left_us = worker_now_us()};
    c->memory = MEMORY_INIT(SIZE_MAX, NULL);
    c->memory.is_shared = n > 1;
    c->report.task.run = run_report;
    accounts_init(&c->accounts, &c->memory);
    loads_init(&c->loads);
    admission_init(&c->admission, server_connections_max(n));
    metrics_life_begin(&c->life);
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct crew_member *m = aligned_alloc(_Alignof(struct crew_member), sizeof *m);
        if (!m) {
            r = -ENOMEM;
            break;
        }
        memset(m, 0, sizeof *m);
        m->adopt.task.run = run_adopt;
        m->drain.task.run = run_drain;
        m->look.task.run = run_look;
        m->shed.task.run = run_shed;
        m->ping.task.run = run_ping;
        m->stop.task.run = run_stop;
        c->members[i] = m;
        r = worker_init(&m->worker, c, i);
    }
    return r;
}

static void end_threads(struct crew *c)
{
    size_t n = c->n_threads;

    for (size_t i = 1; i <= n; i++)
        worker_post(crew_worker(c, i), &c->members[i]->stop);
    for (size_t i = 1; i <= n; i++)
        pthread_join(c->members[i]->thread, NULL);
    c->n_threads = 0;
}

/* Calls may wait for each other's turns across workers: all end before any worker goes. */
void crew_done(struct crew *c)
{
    size_t n = 0;

    end_threads(c);
    c->is_adopting = c->is_looking = false;
    while (n < CREW_MAX && c->members[n])
        worker_finish(crew_worker(c, n++));
    for (size_t i = 0; i < n; i++)
        crew_worker(c, i)->server = server_free(crew_worker(c, i)->server);
    for (size_t i = 0; i < n; i++)
        worker_done(crew_worker(c, i));
    for (size_t i = 0; i < n; i++) {
        provision_free(c->members[i]->provision);
        free(c->members[i]);
        c->members[i] = NULL;
    }
    loads_done(&c->loads);
    accounts_done(&c->accounts);
    record_tell_left_out(c);
}

int crew_serve(struct crew *c, const int *fds, size_t n_fds)
{
    int r = 0;

    /* The one that takes the descriptors last. */
    for (size_t i = c->n_workers; r == 0 && i-- > 0;) {
        struct worker *w = crew_worker(c, i);
        r = server_new(w, i == 0 ? fds : NULL, i == 0 ? n_fds : 0, &w->server);
    }
    return r;
}

static void *run_thread(void *user)
{
    struct worker *w = user;
    int r = worker_run(w);

    event_memory_release();
    if (r < 0) {
        w->crew->failure = r;
        report(w);
    }
    return NULL;
}

int crew_start(struct crew *c)
{
    sigset_t all, before;
    int r = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (size_t i = 1; r == 0 && i < c->n_workers; i++) {
        char name[32];
        r = pthread_create(&c->members[i]->thread, NULL, run_thread, crew_worker(c, i));
        if (r != 0)
            break;
        c->n_threads++;
        snprintf(name, sizeof name, "worker-%zu", i);
        pthread_setname_np(c->members[i]->thread, name);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        log_error(c->log, "the thread of worker %zu of %zu can't be started: %s", c->n_threads + 2,
                  c->n_workers, strerror(r));
    return -r;
}

int crew_run(struct crew *c)
{
    int r = worker_run(crew_worker(c, 0));

    end_threads(c);
    return r < 0 ? r : c->failure;
}

void crew_stop(struct crew *c)
{
    crew_worker(c, 0)->stop = true;
}

/* ---- Configurations ---- */

static void release_shared(struct upstream_shared **shared, size_t n)
{
    for (size_t i = 0; i < n; i++)
        upstream_shared_unref(shared[i]);
    free(shared);
}

/* All that takes memory, for all workers. */
static int provide(struct crew *c, struct config *config,
                   struct provision *ret_provisions[static CREW_MAX])
{
    struct upstream_shared **shared = calloc(config->n_upstreams, sizeof *shared);
    size_t n_shared = 0, n = 0;
    int r = shared ? 0 : -ENOMEM;

    for (; r == 0 && n_shared < config->n_upstreams; n_shared += r == 0)
        r = upstream_shared_new(c, config->upstreams[n_shared], &shared[n_shared]);
    for (; r == 0 && n < c->n_workers; n += r == 0)
        r = worker_provide(crew_worker(c, n), config, shared, &ret_provisions[n]);
    release_shared(shared, n_shared);
    while (r < 0 && n > 0)
        provision_free(ret_provisions[--n]);
    return r;
}

bool crew_is_adopting(const struct crew *c)
{
    return c->is_adopting;
}

int crew_configure(struct crew *c, struct config *config, void (*adopted)(void *user), void *user)
{
    struct provision *provisions[CREW_MAX];
    int r = provide(c, config, provisions);

    if (r < 0)
        return r;
    c->n_configured++;
    c->log->level = config->log_level;
    memory_set_limit(&c->memory, (uint64_t)config->memory_max_bytes < SIZE_MAX
                                     ? (size_t)config->memory_max_bytes
                                     : SIZE_MAX);
    for (size_t i = 0; i < c->n_workers; i++) {
        struct crew_member *m = c->members[i];
        m->provision = provisions[i];
        m->n_provided = c->n_configured;
        tell(c, m, &m->adopt);
    }
    c->adopted = adopted;
    c->user = user;
    c->is_adopting = !all_have_adopted(c);
    return c->is_adopting;
}

/* ---- The end ---- */

void crew_drain(struct crew *c, int64_t timeout_us)
{
    int64_t deadline_us;

    if (__builtin_add_overflow(worker_now_us(), timeout_us, &deadline_us))
        deadline_us = INT64_MAX;
    c->drain_deadline_us = deadline_us;
    for (size_t i = 0; i < c->n_workers; i++)
        tell(c, c->members[i], &c->members[i]->drain);
}

bool crew_is_alive(struct crew *c)
{
    bool all = true;

    for (size_t i = 1; i <= c->n_threads; i++) {
        struct crew_member *m = c->members[i];
        if (worker_has_letter(&m->worker, &m->ping))
            all = false;
        else
            worker_post(&m->worker, &m->ping);
    }
    return all;
}

void crew_look(struct crew *c, void (*looked)(void *user), void *user)
{
    c->looked = looked;
    c->looked_user = user;
    if (c->is_looking)
        return;
    c->is_looking = true;
    c->n_looks++;
    c->n_given_before = c->n_given;
    for (size_t i = 0; i < c->n_workers; i++)
        tell(c, c->members[i], &c->members[i]->look);
}

/* Whoever came since may not have been seen. */
bool crew_is_used(const struct crew *c)
{
    if (c->n_given != c->n_given_before)
        return true;
    for (size_t i = 0; i < c->n_workers; i++)
        if (c->members[i]->is_used)
            return true;
    return false;
}

int64_t crew_unused_since_us(const struct crew *c)
{
    int64_t since_us = c->left_us;

    for (size_t i = 0; i < c->n_workers; i++)
        if (c->members[i]->unused_since_us > since_us)
            since_us = c->members[i]->unused_since_us;
    return since_us;
}

void crew_shed(struct crew *c)
{
    for (size_t i = 0; i < c->n_workers; i++)
        tell(c, c->members[i], &c->members[i]->shed);
}

/* ---- Numbers ---- */

struct worker *crew_choose(struct crew *c)
{
    struct worker *best = NULL;
    size_t n_best = 0;

    for (size_t i = 0; i < c->n_workers; i++) {
        struct worker *w = crew_worker(c, (c->next + i) % c->n_workers);
        size_t n = w->server->n_connections;
        if (!best || n < n_best) {
            best = w;
            n_best = n;
        }
    }
    c->next = best->number + 1;
    c->n_given++;
    return best;
}

size_t crew_n_connections(const struct crew *c)
{
    size_t n = 0;

    for (size_t i = 0; i < c->n_workers; i++)
        n += crew_worker(c, i)->server->n_connections;
    return n;
}

struct metrics *crew_metrics(const struct crew *c)
{
    struct metrics *sum = metrics_new();

    for (size_t i = 0; sum && i < c->n_workers; i++)
        if (!metrics_sum(sum, crew_worker(c, i)->metrics))
            sum = metrics_free(sum);
    return sum;
}
