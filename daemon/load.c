#include "load.h"

#include <stdlib.h>
#include <string.h>

/* ---- The list ---- */

void loads_init(struct loads *loads)
{
    pthread_mutex_init(&loads->lock, NULL);
    LIST_INIT(&loads->list);
}

void loads_done(struct loads *loads)
{
    pthread_mutex_destroy(&loads->lock);
}

static struct load *load_free(struct load *l)
{
    pthread_mutex_destroy(&l->lock);
    free(l->upstream);
    free(l->base_url);
    free(l);
    return NULL;
}

static struct load *load_new(struct loads *loads, const char *upstream, const char *base_url)
{
    struct load *l = calloc(1, sizeof *l);

    if (!l)
        return NULL;
    l->loads = loads;
    pthread_mutex_init(&l->lock, NULL);
    l->upstream = strdup(upstream);
    l->base_url = strdup(base_url);
    return l->upstream && l->base_url ? l : load_free(l);
}

struct load *load_get(struct loads *loads, const char *upstream, const char *base_url)
{
    struct load *l;

    pthread_mutex_lock(&loads->lock);
    LIST_FOREACH (l, &loads->list, next)
        if (!strcmp(l->base_url, base_url) && !strcmp(l->upstream, upstream))
            break;
    if (!l) {
        l = load_new(loads, upstream, base_url);
        if (l)
            LIST_INSERT_HEAD(&loads->list, l, next);
    }
    if (l)
        l->n_refs++;
    pthread_mutex_unlock(&loads->lock);
    return l;
}

struct load *load_unref(struct load *l)
{
    if (!l)
        return NULL;
    struct loads *loads = l->loads;

    pthread_mutex_lock(&loads->lock);
    if (--l->n_refs == 0) {
        LIST_REMOVE(l, next);
        load_free(l);
    }
    pthread_mutex_unlock(&loads->lock);
    return NULL;
}

/* ---- How it has been ---- */

void load_try(struct load *l, int64_t now_us)
{
    if (l->breaker.n_faults == 0)
        return;
    pthread_mutex_lock(&l->lock);
    breaker_try(&l->breaker, now_us);
    pthread_mutex_unlock(&l->lock);
}

unsigned load_report(struct load *l, bool reached, int64_t now_us)
{
    if (reached && l->breaker.n_failures == 0)
        return 0;
    if (!reached)
        l->n_faults++;
    pthread_mutex_lock(&l->lock);
    unsigned change = breaker_report(&l->breaker, reached, now_us);
    pthread_mutex_unlock(&l->lock);
    return change;
}

unsigned load_fault(struct load *l, int64_t least_us, int64_t now_us)
{
    l->n_faults++;
    pthread_mutex_lock(&l->lock);
    unsigned change = breaker_fault(&l->breaker, least_us, now_us);
    pthread_mutex_unlock(&l->lock);
    return change;
}

unsigned load_recover(struct load *l, int64_t now_us)
{
    if (l->breaker.n_faults == 0)
        return 0;
    pthread_mutex_lock(&l->lock);
    unsigned change = breaker_recover(&l->breaker, now_us);
    pthread_mutex_unlock(&l->lock);
    return change;
}
