#include "multi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <unistd.h>

#include "curl_memory.h"
#include "worker.h"

LIST_HEAD(multi_users, multi_user);

/*
 * libcurl up to 7.88 at least can't be used any more when it had no memory to note that a
 * connecting socket is a transfer's: it divides by zero as soon as another socket gets that number.
 * So when it reports such a thing the worker gets a new one of these, and what is connected stays
 * with the old one to its end.
 */
struct multi {
    unsigned n_refs;
    struct worker *worker;
    CURLM *curl;
    /* Armed always, so that there is a place for them when memory is not. */
    struct event timer;
    struct event again; /* something went wrong: look after all of them */
    struct task kick;   /* libcurl's timer of 0 ms: no event, which would cost a poll */
    struct task check;
    struct multi_users running, lost;
    struct multi_socket *looked_at; /* NULL once it is forgotten */
    bool is_unwell;                 /* libcurl stopped half-way, for want of memory */
    bool is_spent;                  /* it has done so before */
};

/* What curl_multi_assign() keeps for a socket. */
struct multi_socket {
    struct multi *multi;
    struct multi_user *user; /* the last one that wanted something of it; may be gone */
    struct event event;
    unsigned n_events, n_unread; /* see is_stuck() */
};

enum { CONNECTIONS_KEPT = 1024, AGAIN_US = 100000, EVENTS_BELIEVED = 256, UNREAD_MAX = 64 };

/* ---- Handles ---- */

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
    user->easy = NULL;
    /* Frees its message; the connection goes back to the pool, or is closed in the middle. */
    curl_multi_remove_handle(m->curl, easy);
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
        if (!user->is_watched || !user->is_connected)
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
        user->ended(user, result);
    }
    while ((user = LIST_FIRST(&m->lost))) {
        take_out(m, user);
        user->ended(user, MULTI_UNWATCHED);
    }
    if (m->is_unwell)
        recover(m);
}

void multi_check(struct multi *m)
{
    worker_defer(m->worker, &m->check);
}

/* ---- What libcurl is told ---- */

static void act(struct multi *m, curl_socket_t fd, int bits)
{
    unsigned long n_refused = curl_memory_n_refused();
    int n_running;

    if (!m->is_unwell && curl_multi_socket_action(m->curl, fd, bits, &n_running) != CURLM_OK) {
        lose_unwatched(m);
        m->is_unwell = m->is_spent = true;
    }
    if (curl_memory_n_refused() != n_refused)
        keep_standard_input();
    multi_check(m);
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

static void act_and_look(struct multi *m, struct multi_socket *s, curl_socket_t fd, int bits)
{
    const struct multi_user *owner = s->user;
    struct multi_user *user;
    int before = n_unread(fd);

    m->looked_at = s;
    act(m, fd, bits);
    /* It may be gone now. */
    if (!m->looked_at || !is_stuck(s, before, n_unread(fd)))
        return;
    LIST_FOREACH (user, &m->running, next)
        if (user == owner) {
            lose(m, user);
            return;
        }
}

static void on_socket(evutil_socket_t fd, short what, void *socket)
{
    struct multi_socket *s = socket;
    struct multi *m = s->multi;
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

/* ---- What libcurl tells ---- */

static void forget_socket(struct multi *m, curl_socket_t fd, struct multi_socket *s)
{
    if (s) {
        if (m->looked_at == s)
            m->looked_at = NULL;
        event_del(&s->event);
        free(s);
        curl_multi_assign(m->curl, fd, NULL);
    }
}

static bool watch_socket(struct multi *m, curl_socket_t fd, int what, struct multi_socket *s,
                         struct multi_user *user)
{
    if (!s) {
        s = calloc(1, sizeof *s);
        if (!s || curl_multi_assign(m->curl, fd, s) != CURLM_OK) {
            free(s);
            return false;
        }
        s->multi = m;
    } else {
        event_del(&s->event);
    }
    short events = (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) |
                           (what & CURL_POLL_OUT ? EV_WRITE : 0));
    s->user = user;
    event_assign(&s->event, m->worker->base, fd, events, on_socket, s);
    return event_add(&s->event, NULL) == 0;
}

static int socket_changed(CURL *easy, curl_socket_t fd, int what, void *multi, void *socket)
{
    struct multi *m = multi;

    struct multi_user *user = user_of(easy);
    bool is_removed = what == CURL_POLL_REMOVE, is_watched = false;

    if (is_removed)
        forget_socket(m, fd, socket);
    else
        is_watched = watch_socket(m, fd, what, socket, user);
    /* libcurl has handles of its own, too. */
    if (!user || !user->easy)
        return 0;
    user->is_watched = is_watched;
    if (!is_watched && !is_removed)
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

int multi_new(struct worker *worker, struct multi **ret)
{
    struct multi *m = calloc(1, sizeof *m);

    if (!m || !(m->curl = curl_multi_init())) {
        free(m);
        return -ENOMEM;
    }
    m->n_refs = 1;
    m->worker = worker;
    m->check.run = run_check;
    m->kick.run = run_kick;
    LIST_INIT(&m->running);
    LIST_INIT(&m->lost);
    evtimer_assign(&m->timer, worker->base, on_timer, m);
    evtimer_assign(&m->again, worker->base, on_again, m);
    if (worker_rest(&m->timer) < 0 || worker_rest(&m->again) < 0) {
        multi_unref(m);
        return -ENOMEM;
    }
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

struct multi *multi_get(struct worker *worker)
{
    struct multi *m = worker->multi;

    if (m->is_spent) {
        if (multi_new(worker, &worker->multi) < 0)
            return NULL;
        multi_unref(m);
        m = worker->multi;
    }
    m->n_refs++;
    return m;
}

struct multi *multi_unref(struct multi *m)
{
    if (m && --m->n_refs == 0) {
        curl_multi_cleanup(m->curl);
        worker_cancel(m->worker, &m->check);
        worker_cancel(m->worker, &m->kick);
        evtimer_del(&m->timer);
        evtimer_del(&m->again);
        free(m);
    }
    return NULL;
}

int multi_add(struct multi *m, CURL *easy)
{
    struct multi_user *user = user_of(easy);

    user->easy = easy;
    user->is_watched = user->is_connected = false;
    LIST_INSERT_HEAD(&m->running, user, next);
    if (curl_multi_add_handle(m->curl, easy) == CURLM_OK)
        return 0;
    take_out(m, user);
    return -ENOMEM;
}

void multi_remove(struct multi *m, CURL *easy)
{
    take_out(m, user_of(easy));
}
