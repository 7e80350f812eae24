#include "idle.h"

#include "config.h"
#include "connection.h"
#include "server.h"

/* How soon it looks again when somebody came at the last moment. */
enum { AGAIN_MIN_US = 100000 };

static void arm(struct idle *i, int64_t in_us)
{
    /* Without memory for a timer the daemon stays, which hurts nobody. */
    (void)worker_arm(&i->timer, in_us);
}

/* Whether nobody needs the server, and since when. */
static bool is_unused(const struct idle *i, int64_t *ret_since_us)
{
    const struct connection *c;

    *ret_since_us = i->since_us;
    LIST_FOREACH (c, &i->server->connections, next) {
        if (!connection_is_only_watching(c))
            return false;
        if (c->used_us > *ret_since_us)
            *ret_since_us = c->used_us;
    }
    return true;
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    struct idle *i = user;
    struct server *s = i->server;
    int64_t since_us;
    bool unused = is_unused(i, &since_us);
    int64_t left_us = i->limit_us - (worker_now_us() - since_us);

    (void)fd, (void)what;
    if (!unused || (left_us <= 0 && server_has_waiting(s)))
        arm(i, i->limit_us > AGAIN_MIN_US ? i->limit_us : AGAIN_MIN_US);
    else if (left_us > 0)
        arm(i, left_us);
    else
        i->expired(s->worker);
}

void idle_init(struct idle *i, struct server *server)
{
    *i = (struct idle){.server = server, .limit_us = CONFIG_INFINITY, .since_us = worker_now_us()};
    evtimer_assign(&i->timer, server->worker->base, on_timer, i);
}

void idle_configure(struct idle *i, int64_t limit_us)
{
    i->limit_us = limit_us;
    evtimer_del(&i->timer);
    if (i->expired && limit_us != CONFIG_INFINITY)
        arm(i, limit_us - (worker_now_us() - i->since_us));
}

void idle_begin(struct idle *i)
{
    i->since_us = worker_now_us();
}

void idle_done(struct idle *i)
{
    i->expired = NULL;
    evtimer_del(&i->timer);
}
