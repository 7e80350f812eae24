#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "config.h"
#include "crew.h"
#include "metrics.h"
#include "multi.h"
#include "queue.h"
#include "server.h"
#include "upstream.h"

static void run_tasks(struct worker *w)
{
    struct task *task;

    while ((task = STAILQ_FIRST(&w->tasks))) {
        STAILQ_REMOVE_HEAD(&w->tasks, next);
        task->queued = false;
        task->run(task);
    }
}

/* ---- Letters ---- */

static void take_letters(struct worker *w)
{
    struct letter *letter;

    pthread_mutex_lock(&w->mailbox.lock);
    while ((letter = STAILQ_FIRST(&w->mailbox.letters))) {
        STAILQ_REMOVE_HEAD(&w->mailbox.letters, next);
        letter->is_posted = false;
        worker_defer(w, &letter->task);
    }
    pthread_mutex_unlock(&w->mailbox.lock);
}

static void on_mail(evutil_socket_t fd, short what, void *user)
{
    char rings[64];

    (void)what;
    /* First: whatever comes behind it rings again. */
    (void)!read(fd, rings, sizeof rings);
    take_letters(user);
}

void worker_post(struct worker *w, struct letter *letter)
{
    struct mailbox *m = &w->mailbox;

    pthread_mutex_lock(&m->lock);
    bool is_first = STAILQ_EMPTY(&m->letters);
    if (!letter->is_posted)
        STAILQ_INSERT_TAIL(&m->letters, letter, next);
    letter->is_posted = true;
    pthread_mutex_unlock(&m->lock);
    if (is_first)
        (void)!write(m->pipe[1], "", 1);
}

bool worker_has_letter(struct worker *w, const struct letter *letter)
{
    pthread_mutex_lock(&w->mailbox.lock);
    bool has = letter->is_posted;
    pthread_mutex_unlock(&w->mailbox.lock);
    return has;
}

static int mailbox_open(struct worker *w)
{
    struct mailbox *m = &w->mailbox;

    /* Not an eventfd: sandboxes know pipes. */
    if (pipe2(m->pipe, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    event_assign(&m->event, w->base, m->pipe[0], EV_READ | EV_PERSIST, on_mail, w);
    return event_add(&m->event, NULL) < 0 ? -ENOMEM : 0;
}

static void mailbox_close(struct worker *w)
{
    if (w->mailbox.pipe[0] < 0)
        return;
    event_del(&w->mailbox.event);
    close(w->mailbox.pipe[0]);
    close(w->mailbox.pipe[1]);
}

/* ---- Life ---- */

int worker_init(struct worker *w, struct crew *crew, size_t number)
{
    *w = (struct worker){.crew = crew, .number = number, .log = crew->log};
    STAILQ_INIT(&w->tasks);
    LIST_INIT(&w->finishing);
    queue_init_worker(w);
    w->mailbox.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    STAILQ_INIT(&w->mailbox.letters);
    w->mailbox.pipe[0] = w->mailbox.pipe[1] = -1;
    w->metrics = metrics_new();
    w->base = event_base_new();
    if (!w->base || !w->metrics)
        return -ENOMEM;
    int r = multi_pool_new(w);
    return r == 0 && crew->n_workers > 1 ? mailbox_open(w) : r;
}

static void release_upstreams(struct upstream **upstreams, size_t n)
{
    for (size_t i = 0; i < n; i++)
        upstream_unref(upstreams[i]);
    free(upstreams);
}

void worker_finish(struct worker *w)
{
    take_letters(w);
    run_tasks(w);
}

void worker_done(struct worker *w)
{
    upstream_cancel_finishing(w);
    worker_finish(w);
    release_upstreams(w->upstreams, w->n_upstreams);
    multi_pool_free(w);
    config_unref(w->config);
    metrics_free(w->metrics);
    mailbox_close(w);
    if (w->base)
        event_base_free(w->base);
    *w = (struct worker){0};
}

/* ---- Configurations ---- */

struct provision {
    struct config *config;
    size_t n_upstreams;
    struct upstream **upstreams;
};

struct provision *provision_free(struct provision *p)
{
    if (!p)
        return NULL;
    release_upstreams(p->upstreams, p->n_upstreams);
    config_unref(p->config);
    free(p);
    return NULL;
}

int worker_provide(struct worker *w, struct config *config, struct upstream_shared *const *shared,
                   struct provision **ret)
{
    struct provision *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->config = config_ref(config);
    p->upstreams = calloc(config->n_upstreams, sizeof *p->upstreams);
    int r = p->upstreams ? 0 : -ENOMEM;
    while (r == 0 && p->n_upstreams < config->n_upstreams) {
        size_t i = p->n_upstreams;
        r = upstream_new(w, config, config->upstreams[i], shared[i], &p->upstreams[i]);
        p->n_upstreams += r == 0;
    }
    if (r < 0) {
        provision_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

void worker_adopt(struct worker *w, struct provision *p)
{
    struct provision before = {w->config, w->n_upstreams, w->upstreams};

    w->config = p->config;
    w->n_upstreams = p->n_upstreams;
    w->upstreams = p->upstreams;
    *p = before;
    provision_free(p);
    if (w->server)
        server_configure(w->server);
}

/* ---- The loop ---- */

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
