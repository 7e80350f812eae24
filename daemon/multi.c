#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "curl_memory.h"
#include "multi_internal.h"

enum {
    CONNECTIONS_MAX = 64, /* in use and kept, of one handle */
    AGAIN_US = 100000,
    EVENTS_BELIEVED = 256,
    UNREAD_MAX = 64
};

/* ---- Transfers ---- */

static struct multi_user *user_of(CURL *easy)
{
    struct multi_user *user = NULL;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&user);
    return user;
}

static void take_out(struct multi *m, struct multi_user *user)
{
    CURL *easy = user->easy;

    LIST_REMOVE(user, next);
    multi_pool_count(m, -1);
    user->easy = NULL;
    /* Frees its message; the connection goes back to the pool, or is closed in the middle. */
    curl_multi_remove_handle(m->curl, easy);
    multi_socket_unlink(user);
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
        if (result == CURLE_COULDNT_CONNECT && user->refusal)
            result = user->refusal;
        user->ended(user, result);
    }
    while ((user = LIST_FIRST(&m->lost))) {
        take_out(m, user);
        user->ended(user, MULTI_UNWATCHED);
    }
    if (m->is_unwell)
        recover(m);
    multi_pool_settle(m);
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

void multi_socket_event(evutil_socket_t fd, short what, void *user)
{
    struct multi_socket *s = user;
    struct multi *m = s->multi;

    if (s->is_idle) {
        multi_socket_rest(s);
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

/* Others' may be kept without need. */
static void lack_descriptor(struct multi_user *user)
{
    user->refusal = MULTI_NO_DESCRIPTOR;
    worker_defer(user->multi->worker, &user->multi->worker->multis->shed);
}

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct multi_user *u = user;
    struct multi_socket *s;

    (void)purpose;
    if (!u->connects(u, &address->addr))
        return CURL_SOCKET_BAD;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            lack_descriptor(u);
        return CURL_SOCKET_BAD;
    }
    short believed = multi_socket_believed(u->multi, fd);
    s = multi_socket_new(u->multi, fd);
    if (!s || multi_socket_arm(s, believed) < 0) {
        if (s)
            multi_socket_free(s);
        close(fd);
        u->refusal = MULTI_UNWATCHED;
        return CURL_SOCKET_BAD;
    }
    s->is_connection = true;
    u->is_sent = u->is_connected = false;
    multi_socket_link(s, u);
    return fd;
}

static int close_socket(void *user, curl_socket_t fd)
{
    struct multi_socket *s = multi_socket_get(user, fd);

    if (s)
        multi_socket_free(s);
    return close(fd);
}

static void forget_socket(struct multi *m, struct multi_socket *s, struct multi_user *user)
{
    if (s && s->is_connection)
        multi_socket_rest(s);
    else if (s)
        multi_socket_free(s);
    if (!user)
        return;
    user->is_watched = false;
    if (user->is_alone && !user->is_sent)
        worker_defer(m->worker, &user->nudge);
}

static bool watch_socket(struct multi *m, curl_socket_t fd, struct multi_socket *s, int what,
                         struct multi_user *user)
{
    if (!s && !(s = multi_socket_new(m, fd)))
        return false;
    multi_socket_link(s, user);
    /* CURLINFO_CONNECT_TIME_T tells the same, but only when TLS is ready, too. */
    if (user && s->is_connection && what == CURL_POLL_IN)
        user->is_connected = true;
    s->is_idle = false;
    return multi_socket_arm(s, (short)((what & CURL_POLL_IN ? EV_READ : 0) |
                                       (what & CURL_POLL_OUT ? EV_WRITE : 0))) == 0;
}

static int socket_changed(CURL *easy, curl_socket_t fd, int what, void *multi, void *socket_user)
{
    struct multi *m = multi;
    struct multi_socket *s = multi_socket_get(m, fd);
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

struct multi *multi_new(struct multi_pool *pool)
{
    struct multi *m = calloc(1, sizeof *m);

    if (!m || !(m->curl = curl_multi_init())) {
        free(m);
        return NULL;
    }
    /* libcurl 7.88 would pass its sockets for wake-ups, which we do not need, to programs. */
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

void multi_free(struct multi *m)
{
    struct multi_pool *p = m->worker->multis;
    struct multi_socket *s;

    curl_multi_cleanup(m->curl);
    worker_cancel(m->worker, &m->check);
    worker_cancel(m->worker, &m->kick);
    evtimer_del(&m->timer);
    evtimer_del(&m->again);
    for (size_t fd = 0; fd < p->n_sockets; fd++)
        if (multi_socket_get(m, (curl_socket_t)fd))
            multi_socket_free(p->sockets[fd]);
    while ((s = LIST_FIRST(&m->forgotten))) {
        LIST_REMOVE(s, next);
        free(s);
    }
    free(m);
}

int multi_add(struct multi *m, CURL *easy, struct multi_user *user)
{
    user->multi = m;
    user->easy = easy;
    user->nudge.run = run_nudge;
    user->is_watched = user->is_sent = user->is_connected = false;
    user->refusal = CURLE_OK;
    m->has_dead = false;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, user);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, user);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, m);
    LIST_INSERT_HEAD(&m->running, user, next);
    multi_pool_count(m, 1);
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
