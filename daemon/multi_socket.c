#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "multi_internal.h"

static struct multi_socket *socket_at(const struct multi_pool *p, curl_socket_t fd)
{
    return (size_t)fd < p->n_sockets ? p->sockets[fd] : NULL;
}

struct multi_socket *multi_socket_get(const struct multi *m, curl_socket_t fd)
{
    struct multi_socket *s = socket_at(m->worker->multis, fd);

    return s && s->multi == m ? s : NULL;
}

int multi_socket_arm(struct multi_socket *s, short events)
{
    if (s->armed == events)
        return 0;
    if (s->armed)
        event_del(&s->event);
    s->armed = 0;
    if (!events)
        return 0;
    event_assign(&s->event, s->multi->worker->base, event_get_fd(&s->event),
                 (short)(events | EV_PERSIST), multi_socket_event, s);
    if (event_add(&s->event, NULL) < 0)
        return -1;
    s->armed = events;
    return 0;
}

void multi_socket_rest(struct multi_socket *s)
{
    multi_socket_arm(s, 0);
    s->n_events = s->n_unread = 0;
    if (s->multi->looked_at == s)
        s->multi->looked_at = NULL;
}

static void socket_let_go(struct multi_socket *s)
{
    multi_socket_rest(s);
    if (s->user)
        s->user->socket = NULL;
    s->user = NULL;
    s->multi->worker->multis->sockets[event_get_fd(&s->event)] = NULL;
}

void multi_socket_free(struct multi_socket *s)
{
    socket_let_go(s);
    free(s);
}

static bool sockets_grow(struct multi_pool *p, curl_socket_t fd)
{
    size_t n = (size_t)fd + 64;

    if ((size_t)fd < p->n_sockets)
        return true;
    struct multi_socket **sockets = reallocarray(p->sockets, n, sizeof *sockets);
    if (!sockets)
        return false;
    memset(sockets + p->n_sockets, 0, (n - p->n_sockets) * sizeof *sockets);
    p->sockets = sockets;
    p->n_sockets = n;
    return true;
}

/* One that was closed without a word, and whose number is another's now. */
static void socket_forget(struct multi_socket *s)
{
    short believed = s->armed;

    socket_let_go(s);
    s->armed = believed;
    LIST_INSERT_HEAD(&s->multi->forgotten, s, next);
}

struct multi_socket *multi_socket_new(struct multi *m, curl_socket_t fd)
{
    struct multi_pool *p = m->worker->multis;
    struct multi_socket *s = sockets_grow(p, fd) ? calloc(1, sizeof *s) : NULL;

    if (!s)
        return NULL;
    if (p->sockets[fd] && p->sockets[fd]->multi == m)
        multi_socket_free(p->sockets[fd]);
    else if (p->sockets[fd])
        socket_forget(p->sockets[fd]);
    s->multi = m;
    event_assign(&s->event, m->worker->base, fd, 0, multi_socket_event, s);
    return p->sockets[fd] = s;
}

short multi_socket_believed(struct multi *m, curl_socket_t fd)
{
    struct multi_socket *s = multi_socket_get(m, fd);
    short armed = s ? s->armed : 0;

    if (s)
        return armed;
    LIST_FOREACH (s, &m->forgotten, next)
        if (event_get_fd(&s->event) == fd)
            break;
    if (s) {
        armed = s->armed;
        LIST_REMOVE(s, next);
        free(s);
    }
    return armed;
}

void multi_socket_link(struct multi_socket *s, struct multi_user *user)
{
    if (!user || !user->is_alone || user->socket == s)
        return;
    if (user->socket)
        user->socket->user = NULL;
    if (s->user)
        s->user->socket = NULL;
    s->user = user;
    user->socket = s;
}

void multi_socket_unlink(struct multi_user *user)
{
    struct multi_socket *s = user->socket;

    worker_cancel(user->multi->worker, &user->nudge);
    if (!s)
        return;
    if (!user->is_sent) {
        multi_socket_free(s);
        return;
    }
    user->socket = NULL;
    s->user = NULL;
    s->is_idle = true;
    if (multi_socket_arm(s, EV_READ) < 0)
        shutdown(event_get_fd(&s->event), SHUT_RDWR);
}
