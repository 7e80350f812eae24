#include "multi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "curl_memory.h"

LIST_HEAD(multi_users, multi_user);
LIST_HEAD(multi_list, multi);
LIST_HEAD(multi_sockets, multi_socket);

/*
 * libcurl up to 7.88 at least can't be used any more when it had no memory to note that a
 * connecting socket is a transfer's: it divides by zero as soon as another socket gets that number.
 * So when it reports such a thing the pool lets go of it, and what is connected stays with it to
 * its end.
 */
struct multi {
    LIST_ENTRY(multi) next;  /* in the pool */
    struct multi_pool *pool; /* NULL: has let go of it */
    unsigned n_refs;
    unsigned n_running;
    struct worker *worker;
    CURLM *curl;
    /* Armed always, so that there is a place for them when memory is not. */
    struct event timer;
    struct event again; /* something went wrong: look after all of them */
    struct task kick;   /* libcurl's timer of 0 ms: no event, which would cost a poll */
    struct task check;
    struct multi_users running, lost;
    struct multi_sockets forgotten;
    struct multi_socket *looked_at; /* NULL once it is gone or not polled */
    bool is_unwell;                 /* libcurl stopped half-way, for want of memory */
    bool is_spent;                  /* it has done so before */
    bool has_dead;                  /* a connection ended while it waited, as others may do */
};

/* The first with room is filled first, so that few keep the connections that are used. */
struct multi_pool {
    struct worker *worker;
    struct multi_list with_room, full;
    size_t n;
    CURLSH *share;
    struct multi_socket **sockets; /* by descriptor */
    size_t n_sockets;
};

/*
 * A socket of a connection, from open_socket() to close_socket(); or one of the resolver's, while
 * libcurl wants it to be polled. Before 8.0.0 libcurl closes sockets that were never connected
 * without a word: nobody may believe in such a one, which nothing is armed for. When another multi
 * gets its number it is forgotten, but for what libcurl believes it is polled for.
 */
struct multi_socket {
    LIST_ENTRY(multi_socket) next; /* while forgotten */
    struct multi *multi;
    struct multi_user *user; /* NULL: nobody's who is alone */
    struct event event;
    short armed; /* EV_READ, EV_WRITE */
    bool is_connection;
    bool is_idle;                /* in the pool, and watched */
    unsigned n_events, n_unread; /* see is_stuck() */
};

enum {
    RUNNING_MAX = 32,
    CONNECTIONS_MAX = 64,
    KEPT_MAX = 16,
    AGAIN_US = 100000,
    EVENTS_BELIEVED = 256,
    UNREAD_MAX = 64
};

/* ---- Sockets and their users ---- */

static struct multi_socket *socket_at(const struct multi_pool *p, curl_socket_t fd)
{
    return (size_t)fd < p->n_sockets ? p->sockets[fd] : NULL;
}

static struct multi_socket *socket_get(const struct multi *m, curl_socket_t fd)
{
    struct multi_socket *s = socket_at(m->worker->multis, fd);

    return s && s->multi == m ? s : NULL;
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

/* Nobody waits for it any more; what comes next starts afresh. */
static void socket_rest(struct multi_socket *s)
{
    socket_arm(s, 0);
    s->n_events = s->n_unread = 0;
    if (s->multi->looked_at == s)
        s->multi->looked_at = NULL;
}

static void socket_let_go(struct multi_socket *s)
{
    socket_rest(s);
    if (s->user)
        s->user->socket = NULL;
    s->user = NULL;
    s->multi->worker->multis->sockets[event_get_fd(&s->event)] = NULL;
}

static void socket_free(struct multi_socket *s)
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

static struct multi_socket *socket_new(struct multi *m, curl_socket_t fd)
{
    struct multi_pool *p = m->worker->multis;
    struct multi_socket *s = sockets_grow(p, fd) ? calloc(1, sizeof *s) : NULL;

    if (!s)
        return NULL;
    if (p->sockets[fd] && p->sockets[fd]->multi == m)
        socket_free(p->sockets[fd]);
    else if (p->sockets[fd])
        socket_forget(p->sockets[fd]);
    s->multi = m;
    event_assign(&s->event, m->worker->base, fd, 0, on_socket, s);
    return p->sockets[fd] = s;
}

/* What libcurl believes a socket to be polled for that it is about to open: it had the same number
 * before, and was closed without a word. */
static short socket_believed(struct multi *m, curl_socket_t fd)
{
    struct multi_socket *s = socket_get(m, fd);
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

/* ---- Transfers ---- */

static struct multi_user *user_of(CURL *easy)
{
    struct multi_user *user = NULL;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&user);
    return user;
}

/* A transfer more, or less. */
static void count_running(struct multi *m, int change)
{
    bool was_full = m->n_running >= RUNNING_MAX;

    m->n_running += (unsigned)change;
    bool is_full = m->n_running >= RUNNING_MAX;
    if (!m->pool || was_full == is_full)
        return;
    LIST_REMOVE(m, next);
    LIST_INSERT_HEAD(is_full ? &m->pool->full : &m->pool->with_room, m, next);
}

static void take_out(struct multi *m, struct multi_user *user)
{
    CURL *easy = user->easy;

    LIST_REMOVE(user, next);
    count_running(m, -1);
    user->easy = NULL;
    /* Frees its message; the connection goes back to the pool, or is closed in the middle. */
    curl_multi_remove_handle(m->curl, easy);
    socket_unlink(user);
}

/* Without memory to watch its socket it would wait for ever. It can't be ended from inside libcurl,
 * whose own way for callbacks that fail is to end all transfers there are. */
static void lose(struct multi *m, struct multi_user *user)
{
    LIST_REMOVE(user, next);
    LIST_INSERT_HEAD(&m->lost, user, next);
    multi_check(m);
}

/* libcurl could not tell us of a socket. Whose it was is not said: one who still connects, or whose
 * socket we do not know. */
static void lose_unwatched(struct multi *m)
{
    struct multi_user *user, *next;

    for (user = LIST_FIRST(&m->running); user; user = next) {
        next = LIST_NEXT(user, next);
        if (!user->is_watched || !user->is_sent)
            lose(m, user);
    }
}

/* libcurl 7.88 closes descriptor 0, twice, when it has no memory to begin to look up a name. The
 * next to get that number would be a caller's connection, to be closed the next time. */
static void keep_standard_input(void)
{
    if (fcntl(STDIN_FILENO, F_GETFD) < 0 && errno == EBADF) {
        int fd = open("/dev/null", O_RDWR);
        if (fd > STDIN_FILENO)
            close(fd);
    }
}

/* Nothing is asked of libcurl before those are gone. Then it goes on where it stopped. */
static void recover(struct multi *m)
{
    CURLMcode r;
    int n_running;

    m->is_unwell = false;
    CURL_IGNORE_DEPRECATION(r = curl_multi_socket_all(m->curl, &n_running);)
    keep_standard_input();
    multi_check(m);
    if (r == CURLM_OK)
        return;
    lose_unwatched(m);
    m->is_unwell = !LIST_EMPTY(&m->lost);
    if (!m->is_unwell)
        worker_arm(&m->again, AGAIN_US);
}

static void drop_if_useless(struct multi *m);

static void run_check(struct task *task)
{
    struct multi *m = container_of(task, struct multi, check);
    struct multi_user *user;
    CURLMsg *message;
    int n_left;

    while ((message = curl_multi_info_read(m->curl, &n_left))) {
        CURLcode result = message->data.result;

        if (message->msg != CURLMSG_DONE)
            continue;
        user = user_of(message->easy_handle);
        take_out(m, user);
        /* For libcurl the server can't be reached. */
        if (result == CURLE_COULDNT_CONNECT && user->is_refused)
            result = MULTI_UNWATCHED;
        user->ended(user, result);
    }
    while ((user = LIST_FIRST(&m->lost))) {
        take_out(m, user);
        user->ended(user, MULTI_UNWATCHED);
    }
    if (m->is_unwell)
        recover(m);
    drop_if_useless(m);
}

void multi_check(struct multi *m)
{
    worker_defer(m->worker, &m->check);
}

/* ---- What libcurl is told ---- */

static void stumble(struct multi *m)
{
    lose_unwatched(m);
    m->is_unwell = m->is_spent = true;
}

static void act(struct multi *m, curl_socket_t fd, int bits)
{
    unsigned long n_refused = curl_memory_n_refused();
    int n_running;

    if (!m->is_unwell && curl_multi_socket_action(m->curl, fd, bits, &n_running) != CURLM_OK)
        stumble(m);
    if (curl_memory_n_refused() != n_refused)
        keep_standard_input();
    multi_check(m);
}

/* Having given up an address libcurl (7.88.1 at least) sets about the next one only when it is
 * called again, and asks for that by neither socket nor timer. */
static void run_nudge(struct task *task)
{
    struct multi_user *user = container_of(task, struct multi_user, nudge);
    struct multi *m = user->multi;
    unsigned long n_refused = curl_memory_n_refused();

    /* It is called for all of them soon. */
    if (m->is_unwell)
        return;
    curl_easy_pause(user->easy, CURLPAUSE_ALL);
    curl_easy_pause(user->easy, CURLPAUSE_CONT);
    if (curl_memory_n_refused() != n_refused) {
        /* It does not tell what that was for. */
        keep_standard_input();
        stumble(m);
        multi_check(m);
    }
}

static int n_unread(evutil_socket_t fd)
{
    int n = 0;

    return ioctl(fd, FIONREAD, &n) == 0 ? n : 0;
}

/* libcurl 7.88 takes a TLS read that failed for want of memory for one that has to wait, again and
 * again. Asked after each of many events: true if it has left all of them unread. */
static bool is_stuck(struct multi_socket *s, int before, int after)
{
    if (before == 0 || before != after)
        s->n_events = s->n_unread = 0;
    else
        s->n_unread++;
    return s->n_unread >= UNREAD_MAX;
}

/* A libcurl that gets stuck is too old for HTTP/2 here: the socket has one user. */
static void act_and_look(struct multi *m, struct multi_socket *s, curl_socket_t fd, int bits)
{
    int before = n_unread(fd);

    m->looked_at = s;
    act(m, fd, bits);
    /* It may be gone now. */
    if (m->looked_at && is_stuck(s, before, n_unread(fd)) && s->user)
        lose(m, s->user);
    m->looked_at = NULL;
}

static void on_socket(evutil_socket_t fd, short what, void *user)
{
    struct multi_socket *s = user;
    struct multi *m = s->multi;

    if (s->is_idle) {
        socket_rest(s);
        shutdown(fd, SHUT_RDWR);
        m->has_dead = true;
        multi_check(m);
        return;
    }
    /* Both bits in one call: before 8.7.0 a second call overwrites the first one's. */
    int bits = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);

    if (s->n_events < EVENTS_BELIEVED) {
        s->n_events++;
        act(m, fd, bits);
    } else {
        act_and_look(m, s, fd, bits);
    }
}

static void time_out(struct multi *m)
{
    act(m, CURL_SOCKET_TIMEOUT, 0);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    struct multi *m = user;

    (void)fd, (void)what;
    worker_rest(&m->timer);
    time_out(m);
}

static void on_again(evutil_socket_t fd, short what, void *user)
{
    struct multi *m = user;

    (void)fd, (void)what;
    worker_rest(&m->again);
    m->is_unwell = true;
    multi_check(m);
}

static void run_kick(struct task *task)
{
    time_out(container_of(task, struct multi, kick));
}

/* ---- What libcurl asks and tells ---- */

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct multi_user *u = user;
    struct multi_socket *s;

    (void)purpose;
    if (!u->connects(u, &address->addr))
        return CURL_SOCKET_BAD;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0)
        return CURL_SOCKET_BAD;
    short believed = socket_believed(u->multi, fd);
    s = socket_new(u->multi, fd);
    if (!s || socket_arm(s, believed) < 0) {
        if (s)
            socket_free(s);
        close(fd);
        u->is_refused = true;
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

static void forget_socket(struct multi *m, struct multi_socket *s, struct multi_user *user)
{
    if (s && s->is_connection)
        socket_rest(s);
    else if (s)
        socket_free(s);
    if (!user)
        return;
    user->is_watched = false;
    if (user->is_alone && !user->is_sent)
        worker_defer(m->worker, &user->nudge);
}

static bool watch_socket(struct multi *m, curl_socket_t fd, struct multi_socket *s, int what,
                         struct multi_user *user)
{
    if (!s && !(s = socket_new(m, fd)))
        return false;
    socket_link(s, user);
    /* CURLINFO_CONNECT_TIME_T tells the same, but only when TLS is ready, too. */
    if (user && s->is_connection && what == CURL_POLL_IN)
        user->is_connected = true;
    s->is_idle = false;
    return socket_arm(s, (short)((what & CURL_POLL_IN ? EV_READ : 0) |
                                 (what & CURL_POLL_OUT ? EV_WRITE : 0))) == 0;
}

static int socket_changed(CURL *easy, curl_socket_t fd, int what, void *multi, void *socket_user)
{
    struct multi *m = multi;
    struct multi_socket *s = socket_get(m, fd);
    struct multi_user *user = user_of(easy);

    (void)socket_user;
    /* libcurl has handles of its own, too; and one may be on its way out. */
    if (user && !user->easy)
        user = NULL;
    if (what == CURL_POLL_REMOVE) {
        forget_socket(m, s, user);
        return 0;
    }
    bool is_watched = watch_socket(m, fd, s, what, user);
    if (user)
        user->is_watched = is_watched;
    if (user && !is_watched)
        lose(m, user);
    return 0;
}

static int timer_changed(CURLM *curl, long timeout_ms, void *user)
{
    struct multi *m = user;

    (void)curl;
    worker_cancel(m->worker, &m->kick);
    if (timeout_ms <= 0) {
        worker_rest(&m->timer);
        if (timeout_ms == 0)
            worker_defer(m->worker, &m->kick);
        return 0;
    }
    if (worker_arm(&m->timer, timeout_ms * INT64_C(1000)) < 0)
        worker_arm(&m->again, timeout_ms * INT64_C(1000));
    return 0;
}

/* ---- Life ---- */

static struct multi *multi_new(struct multi_pool *pool)
{
    struct multi *m = calloc(1, sizeof *m);

    if (!m || !(m->curl = curl_multi_init())) {
        free(m);
        return NULL;
    }
    /* libcurl 7.88 would pass its pair of sockets, for wake-ups that we do not need, to programs.
     */
    (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    m->n_refs = 1;
    m->worker = pool->worker;
    m->check.run = run_check;
    m->kick.run = run_kick;
    LIST_INIT(&m->running);
    LIST_INIT(&m->lost);
    LIST_INIT(&m->forgotten);
    evtimer_assign(&m->timer, m->worker->base, on_timer, m);
    evtimer_assign(&m->again, m->worker->base, on_again, m);
    if (worker_rest(&m->timer) < 0 || worker_rest(&m->again) < 0) {
        multi_unref(m);
        return NULL;
    }
    curl_multi_setopt(m->curl, CURLMOPT_SOCKETFUNCTION, socket_changed);
    curl_multi_setopt(m->curl, CURLMOPT_SOCKETDATA, m);
    curl_multi_setopt(m->curl, CURLMOPT_TIMERFUNCTION, timer_changed);
    curl_multi_setopt(m->curl, CURLMOPT_TIMERDATA, m);
    /* The default, four times the handles at the moment a connection comes back, closes warm
     * connections at the end of each burst. */
    curl_multi_setopt(m->curl, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_MAX);
    return m;
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

static void multi_free(struct multi *m)
{
    struct multi_pool *p = m->worker->multis;
    struct multi_socket *s;

    curl_multi_cleanup(m->curl);
    worker_cancel(m->worker, &m->check);
    worker_cancel(m->worker, &m->kick);
    evtimer_del(&m->timer);
    evtimer_del(&m->again);
    for (size_t fd = 0; fd < p->n_sockets; fd++)
        if (socket_get(m, (curl_socket_t)fd))
            socket_free(p->sockets[fd]);
    while ((s = LIST_FIRST(&m->forgotten))) {
        LIST_REMOVE(s, next);
        free(s);
    }
    free(m);
}

/* Of those that nobody uses the pool keeps some, for the sake of their connections. What has ended
 * of these libcurl finds only when it makes another transfer. */
static void drop_if_useless(struct multi *m)
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
        drop_if_useless(m);
    return NULL;
}

int multi_pool_new(struct worker *worker)
{
    struct multi_pool *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    worker->multis = p;
    p->worker = worker;
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
    curl_share_cleanup(p->share);
    free(p->sockets);
    free(p);
    worker->multis = NULL;
}

CURLSH *multi_pool_share(struct multi_pool *p)
{
    return p->share;
}

int multi_add(struct multi *m, CURL *easy, struct multi_user *user)
{
    user->multi = m;
    user->easy = easy;
    user->nudge.run = run_nudge;
    user->is_watched = user->is_refused = user->is_sent = user->is_connected = false;
    m->has_dead = false;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, user);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, user);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, m);
    LIST_INSERT_HEAD(&m->running, user, next);
    count_running(m, 1);
    if (curl_multi_add_handle(m->curl, easy) == CURLM_OK)
        return 0;
    take_out(m, user);
    return -ENOMEM;
}

bool multi_user_is_seen(const struct multi_user *user)
{
    return !user->is_alone || user->socket;
}

void multi_remove(struct multi *m, struct multi_user *user)
{
    take_out(m, user);
}
