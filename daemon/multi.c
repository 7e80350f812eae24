#include "multi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct multi {
    struct worker *worker;
    CURLM *curl;
    struct event timer;
    struct task kick; /* libcurl's timer of 0 ms: no event, which would cost a poll */
    struct task check;
    struct multi_socket **sockets; /* by descriptor */
    size_t n_sockets;
};

/*
 * A socket of a connection, from open_socket() to close_socket(); or one of the resolver's, while
 * libcurl wants it to be polled. Before 8.0.0 libcurl closes sockets that were never connected
 * without a word: nobody may believe in such a one, which nothing is armed for.
 */
struct multi_socket {
    struct multi *multi;
    struct multi_user *user; /* NULL: nobody's who is alone */
    struct event event;
    short armed; /* EV_READ, EV_WRITE */
    bool is_connection;
    bool is_idle; /* in the pool, and watched */
};

enum { CONNECTIONS_KEPT = 1024 };

/* ---- Sockets and their users ---- */

static struct multi_socket *socket_get(const struct multi *m, curl_socket_t fd)
{
    return (size_t)fd < m->n_sockets ? m->sockets[fd] : NULL;
}

static void on_socket(evutil_socket_t fd, short what, void *user);

static int socket_arm(struct multi_socket *s, short events)
{
    if (s->armed == events)
        return 0;
    if (s->armed)
        event_del(&s->event);
    s->armed = 0;
    if (!events)
        return 0;
    event_assign(&s->event, s->multi->worker->base, event_get_fd(&s->event),
                 (short)(events | EV_PERSIST), on_socket, s);
    if (event_add(&s->event, NULL) < 0)
        return -1;
    s->armed = events;
    return 0;
}

static void socket_free(struct multi_socket *s)
{
    socket_arm(s, 0);
    if (s->user)
        s->user->socket = NULL;
    s->multi->sockets[event_get_fd(&s->event)] = NULL;
    free(s);
}

static bool sockets_grow(struct multi *m, curl_socket_t fd)
{
    size_t n = (size_t)fd + 64;

    if ((size_t)fd < m->n_sockets)
        return true;
    struct multi_socket **sockets = reallocarray(m->sockets, n, sizeof *sockets);
    if (!sockets)
        return false;
    memset(sockets + m->n_sockets, 0, (n - m->n_sockets) * sizeof *sockets);
    m->sockets = sockets;
    m->n_sockets = n;
    return true;
}

static struct multi_socket *socket_new(struct multi *m, curl_socket_t fd)
{
    if (!sockets_grow(m, fd))
        return NULL;
    if (m->sockets[fd])
        socket_free(m->sockets[fd]);
    struct multi_socket *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->multi = m;
    event_assign(&s->event, m->worker->base, fd, 0, on_socket, s);
    return m->sockets[fd] = s;
}

/* One at a time, though libcurl may try two addresses at once: the one it speaks of last. */
static void socket_link(struct multi_socket *s, struct multi_user *user)
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

/* The user's transfer is over. If its socket has not been closed with it, then it is in the pool;
 * where it can't be watched it is of no use. */
static void socket_unlink(struct multi_user *user)
{
    struct multi_socket *s = user->socket;

    worker_cancel(user->multi->worker, &user->nudge);
    if (!s)
        return;
    if (!user->is_sent) {
        socket_free(s);
        return;
    }
    user->socket = NULL;
    s->user = NULL;
    s->is_idle = true;
    if (socket_arm(s, EV_READ) < 0)
        shutdown(event_get_fd(&s->event), SHUT_RDWR);
}

/* Having given up an address libcurl (7.88.1 at least) sets about the next one only when it is
 * called again, and asks for that by neither socket nor timer. */
static void run_nudge(struct task *task)
{
    struct multi_user *user = container_of(task, struct multi_user, nudge);

    curl_easy_pause(user->easy, CURLPAUSE_ALL);
    curl_easy_pause(user->easy, CURLPAUSE_CONT);
}

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct multi_user *u = user;
    struct multi_socket *s;
    short armed = 0;

    (void)purpose;
    if (!u->connects(u, &address->addr))
        return CURL_SOCKET_BAD;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0)
        return CURL_SOCKET_BAD;
    /* One that was closed without a word: libcurl thinks that it is polled already. */
    if (socket_get(u->multi, fd))
        armed = socket_get(u->multi, fd)->armed;
    s = socket_new(u->multi, fd);
    if (!s || socket_arm(s, armed) < 0) {
        if (s)
            socket_free(s);
        close(fd);
        return CURL_SOCKET_BAD;
    }
    s->is_connection = true;
    u->is_sent = u->is_connected = false;
    socket_link(s, u);
    return fd;
}

static int close_socket(void *user, curl_socket_t fd)
{
    struct multi_socket *s = socket_get(user, fd);

    if (s)
        socket_free(s);
    return close(fd);
}

/* ---- Events ---- */

static void run_check(struct task *task)
{
    struct multi *m = container_of(task, struct multi, check);
    CURLMsg *message;
    int n_left;

    while ((message = curl_multi_info_read(m->curl, &n_left))) {
        struct multi_user *user = NULL;
        CURL *easy = message->easy_handle;
        CURLcode result = message->data.result;

        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&user);
        /* Frees the message; the connection goes back to the pool. */
        curl_multi_remove_handle(m->curl, easy);
        socket_unlink(user);
        user->ended(user, result);
    }
}

void multi_check(struct multi *m)
{
    worker_defer(m->worker, &m->check);
}

static void on_socket(evutil_socket_t fd, short what, void *user)
{
    struct multi_socket *s = user;
    struct multi *m = s->multi;

    if (s->is_idle) {
        socket_arm(s, 0);
        shutdown(fd, SHUT_RDWR);
        return;
    }
    /* Both bits in one call: before 8.7.0 a second call overwrites the first one's. */
    int bits = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    int n_running;

    curl_multi_socket_action(m->curl, fd, bits, &n_running);
    multi_check(m);
}

static void time_out(struct multi *m)
{
    int n_running;

    curl_multi_socket_action(m->curl, CURL_SOCKET_TIMEOUT, 0, &n_running);
    multi_check(m);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    time_out(user);
}

static void run_kick(struct task *task)
{
    time_out(container_of(task, struct multi, kick));
}

static int socket_changed(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user)
{
    struct multi *m = user;
    struct multi_socket *s = socket_get(m, fd);
    struct multi_user *transfer = NULL;

    (void)socket_user;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&transfer);
    if (what == CURL_POLL_REMOVE) {
        if (s && s->is_connection)
            socket_arm(s, 0);
        else if (s)
            socket_free(s);
        if (transfer && transfer->is_alone && !transfer->is_sent)
            worker_defer(m->worker, &transfer->nudge);
        return 0;
    }
    if (!s && !(s = socket_new(m, fd)))
        return -1;
    socket_link(s, transfer);
    /* CURLINFO_CONNECT_TIME_T tells the same, but only when TLS is ready, too. */
    if (transfer && s->is_connection && what == CURL_POLL_IN)
        transfer->is_connected = true;
    s->is_idle = false;
    return socket_arm(
        s, (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0)));
}

static int timer_changed(CURLM *curl, long timeout_ms, void *user)
{
    struct multi *m = user;

    (void)curl;
    worker_cancel(m->worker, &m->kick);
    if (timeout_ms <= 0) {
        evtimer_del(&m->timer);
        if (timeout_ms == 0)
            worker_defer(m->worker, &m->kick);
        return 0;
    }
    return worker_arm(&m->timer, timeout_ms * INT64_C(1000)) < 0 ? -1 : 0;
}

int multi_new(struct worker *worker, struct multi **ret)
{
    struct multi *m = calloc(1, sizeof *m);

    if (!m || !(m->curl = curl_multi_init())) {
        free(m);
        return -ENOMEM;
    }
    m->worker = worker;
    m->check.run = run_check;
    m->kick.run = run_kick;
    evtimer_assign(&m->timer, worker->base, on_timer, m);
    curl_multi_setopt(m->curl, CURLMOPT_SOCKETFUNCTION, socket_changed);
    curl_multi_setopt(m->curl, CURLMOPT_SOCKETDATA, m);
    curl_multi_setopt(m->curl, CURLMOPT_TIMERFUNCTION, timer_changed);
    curl_multi_setopt(m->curl, CURLMOPT_TIMERDATA, m);
    /* The default, four times the handles at the moment a connection comes back, closes warm
     * connections at the end of each burst. */
    curl_multi_setopt(m->curl, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
    *ret = m;
    return 0;
}

struct multi *multi_free(struct multi *m)
{
    if (m) {
        curl_multi_cleanup(m->curl);
        worker_cancel(m->worker, &m->check);
        worker_cancel(m->worker, &m->kick);
        evtimer_del(&m->timer);
        for (size_t i = 0; i < m->n_sockets; i++)
            if (m->sockets[i])
                socket_free(m->sockets[i]);
        free(m->sockets);
        free(m);
    }
    return NULL;
}

int multi_add(struct multi *m, CURL *easy, struct multi_user *user)
{
    user->multi = m;
    user->easy = easy;
    user->nudge.run = run_nudge;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, user);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, user);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, m);
    return curl_multi_add_handle(m->curl, easy) == CURLM_OK ? 0 : -ENOMEM;
}

bool multi_user_is_seen(const struct multi_user *user)
{
    return !user->is_alone || user->socket;
}

void multi_remove(struct multi *m, CURL *easy)
{
    struct multi_user *user = NULL;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&user);
    curl_multi_remove_handle(m->curl, easy);
    socket_unlink(user);
}
