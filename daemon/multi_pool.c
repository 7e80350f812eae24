#include <errno.h>
#include <stdlib.h>

#include "multi_internal.h"

/* So many of those that nobody uses are kept, for the sake of their connections. */
enum { KEPT_MAX = 16 };

void multi_pool_count(struct multi *m, int change)
{
    bool was_full = m->n_running >= MULTI_RUNNING_MAX;

    m->n_running += (unsigned)change;
    bool is_full = m->n_running >= MULTI_RUNNING_MAX;
    if (!m->pool || was_full == is_full)
        return;
    LIST_REMOVE(m, next);
    LIST_INSERT_HEAD(is_full ? &m->pool->full : &m->pool->with_room, m, next);
}

static struct multi *enter_pool(struct multi_pool *p)
{
    struct multi *m = multi_new(p);

    if (!m)
        return NULL;
    m->pool = p;
    p->n++;
    LIST_INSERT_HEAD(&p->with_room, m, next);
    return m;
}

static void leave_pool(struct multi *m)
{
    m->pool->n--;
    m->pool = NULL;
    LIST_REMOVE(m, next);
    multi_unref(m);
}

struct multi *multi_get(struct worker *worker)
{
    struct multi_pool *p = worker->multis;
    struct multi *m = LIST_FIRST(&p->with_room);

    while (m && m->is_spent) {
        leave_pool(m);
        m = LIST_FIRST(&p->with_room);
    }
    if (!m && !(m = enter_pool(p)))
        return NULL;
    m->n_refs++;
    return m;
}

/* A connection that has ended libcurl finds only when it makes another transfer. */
void multi_pool_settle(struct multi *m)
{
    struct multi_pool *p = m->pool;

    if (p && m->n_refs == 1 && (p->n > KEPT_MAX || (m->has_dead && p->n > 1)))
        leave_pool(m);
}

struct multi *multi_unref(struct multi *m)
{
    if (m && --m->n_refs == 0)
        multi_free(m);
    else if (m)
        multi_pool_settle(m);
    return NULL;
}

void multi_pool_shed(struct worker *worker)
{
    struct multi *m, *next;

    for (m = LIST_FIRST(&worker->multis->with_room); m; m = next) {
        next = LIST_NEXT(m, next);
        if (m->n_refs == 1)
            leave_pool(m);
    }
}

static void run_shed(struct task *task)
{
    multi_pool_shed(container_of(task, struct multi_pool, shed)->worker);
}

int multi_pool_new(struct worker *worker)
{
    struct multi_pool *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    worker->multis = p;
    p->worker = worker;
    p->shed.run = run_shed;
    LIST_INIT(&p->with_room);
    LIST_INIT(&p->full);
    p->share = curl_share_init();
    if (!p->share ||
        curl_share_setopt(p->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS) != CURLSHE_OK ||
        !enter_pool(p)) {
        multi_pool_free(worker);
        return -ENOMEM;
    }
    return 0;
}

void multi_pool_free(struct worker *worker)
{
    struct multi_pool *p = worker->multis;
    struct multi *m;

    if (!p)
        return;
    while ((m = LIST_FIRST(&p->with_room)))
        leave_pool(m);
    worker_cancel(worker, &p->shed);
    curl_share_cleanup(p->share);
    free(p->sockets);
    free(p);
    worker->multis = NULL;
}

CURLSH *multi_pool_share(struct multi_pool *p)
{
    return p->share;
}
