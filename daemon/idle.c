#include "idle.h"

#include "config.h"
#include "crew.h"
#include "server.h"

/* How soon it looks again when somebody came at the last moment. */
enum { AGAIN_MIN_US = 100000 };

static void arm(struct idle *i, int64_t in_us)
{
    /* Without memory for a timer the daemon stays, which hurts nobody. */
    (void)worker_arm(&i->timer, in_us);
}

/* All workers have been asked. */
static void on_looked(void *user)
{
    struct idle *i = user;
    const struct crew *c = i->server->worker->crew;
    bool is_used = crew_is_used(c);
    int64_t left_us = i->limit_us - (worker_now_us() - crew_unused_since_us(c));

    if (!i->expired)
        return;
    if (is_used || (left_us <= 0 && server_has_waiting(i->server)))
        arm(i, i->limit_us > AGAIN_MIN_US ? i->limit_us : AGAIN_MIN_US);
    else if (left_us > 0)
        arm(i, left_us);
    else
        i->expired(i->user);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    struct idle *i = user;

    (void)fd, (void)what;
    crew_look(i->server->worker->crew, on_looked, i);
}

void idle_init(struct idle *i, struct server *server)
{
    *i = (struct idle){.server = server, .limit_us = CONFIG_INFINITY};
    evtimer_assign(&i->timer, server->worker->base, on_timer, i);
}

void idle_configure(struct idle *i, int64_t limit_us)
{
    i->limit_us = limit_us;
    evtimer_del(&i->timer);
    if (i->expired && limit_us != CONFIG_INFINITY)
        arm(i, limit_us - (worker_now_us() - i->server->worker->crew->left_us));
}

void idle_done(struct idle *i)
{
    i->expired = NULL;
    evtimer_del(&i->timer);
}
