#include "lookup.h"

#include "crew.h"

#include <netinet/in.h>
#include <sys/stat.h>

/* For each worker: more than any number of upstreams that are looked up at the same time, and no
 * burden. */
enum { THREADS_MAX = 16 };

static void run_wake(struct task *task);

void lookup_init(struct lookup *l, struct worker *worker)
{
    *l = (struct lookup){.worker = worker};
    l->wake.run = run_wake;
    TAILQ_INIT(&l->waiting);
}

void lookup_done(struct lookup *l)
{
    if (l->worker)
        worker_cancel(l->worker, &l->wake);
}

/* Of this process; beside the workers' only those of libcurl's look-ups, which come and go. A task
 * folder has a link for each, and two of its own. */
static bool has_too_many_threads(size_t n_workers)
{
    struct stat st;

    return stat("/proc/self/task", &st) == 0 && st.st_nlink > (THREADS_MAX + 1) * n_workers - 1 + 2;
}

static void stop_waiting(struct lookup *l, struct lookup_user *user)
{
    TAILQ_REMOVE(&l->waiting, user, next);
    user->is_waiting = false;
}

/* Those who wait now; one who has to wait again comes behind them. */
static void run_wake(struct task *task)
{
    struct lookup *l = container_of(task, struct lookup, wake);
    struct lookup_user *last = TAILQ_LAST(&l->waiting, lookup_users), *user;
    bool failed = l->last == LOOKUP_FAILED, one = l->last == LOOKUP_GIVEN_UP;

    while ((user = TAILQ_FIRST(&l->waiting))) {
        bool is_last = user == last || one;

        stop_waiting(l, user);
        if (failed)
            user->failed(user);
        else
            user->go_on(user);
        if (is_last)
            break;
    }
}

enum lookup_answer lookup_begin(struct lookup *l, struct lookup_user *user)
{
    if (l->running && l->running != user) {
        TAILQ_INSERT_TAIL(&l->waiting, user, next);
        user->is_waiting = true;
        return LOOKUP_WAIT;
    }
    if (has_too_many_threads(l->worker->crew->n_workers))
        return LOOKUP_TOO_MANY;
    l->running = user;
    return LOOKUP_GO;
}

static void tell(struct lookup *l, enum lookup_outcome outcome)
{
    l->last = outcome;
    if (!TAILQ_EMPTY(&l->waiting))
        worker_defer(l->worker, &l->wake);
}

void lookup_found(struct lookup *l, struct lookup_user *user)
{
    if (l->running != user)
        return;
    l->running = NULL;
    tell(l, LOOKUP_FOUND);
}

void lookup_failed(struct lookup *l, struct lookup_user *user)
{
    if (l->running != user)
        return;
    l->running = NULL;
    tell(l, LOOKUP_FAILED);
}

void lookup_leave(struct lookup *l, struct lookup_user *user)
{
    if (user->is_waiting)
        stop_waiting(l, user);
    if (l->running == user)
        l->running = NULL;
    /* It may have been the one that was to ask for the others. */
    if (!l->running && !l->wake.queued)
        tell(l, LOOKUP_GIVEN_UP);
}

bool lookup_may_lead_to(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        uint32_t a = ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr);
        return a >> 16 != 0xa9fe && a >> 24 != 0 && a >> 28 < 0xe;
    }
    if (address->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        /* Of the embedded ones none is in use. */
        return !(IN6_IS_ADDR_LINKLOCAL(a) || IN6_IS_ADDR_UNSPECIFIED(a) ||
                 IN6_IS_ADDR_MULTICAST(a) || IN6_IS_ADDR_V4MAPPED(a) || IN6_IS_ADDR_V4COMPAT(a));
    }
    return true;
}
