#include "multi.h"

#include <errno.h>
#include <stdlib.h>

#include "worker.h"

struct multi {
    struct worker *worker;
    CURLM *curl;
    struct event timer;
    struct task kick; /* libcurl's timer of 0 ms: no event, which would cost a poll */
    struct task check;
};

/* What curl_multi_assign() keeps for a socket. */
struct multi_socket {
    struct multi *multi;
    struct event event;
};

enum { CONNECTIONS_KEPT = 1024 };

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
        user->ended(user, result);
    }
}

void multi_check(struct multi *m)
{
    worker_defer(m->worker, &m->check);
}

static void on_socket(evutil_socket_t fd, short what, void *user)
{
    struct multi *m = user;
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
    struct multi_socket *s = socket_user;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            event_del(&s->event);
            free(s);
            curl_multi_assign(m->curl, fd, NULL);
        }
        return 0;
    }
    if (!s) {
        s = malloc(sizeof *s);
        if (!s || curl_multi_assign(m->curl, fd, s) != CURLM_OK) {
            free(s);
            return -1;
        }
        s->multi = m;
    } else {
        event_del(&s->event);
    }
    short events = (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) |
                           (what & CURL_POLL_OUT ? EV_WRITE : 0));
    event_assign(&s->event, m->worker->base, fd, events, on_socket, m);
    return event_add(&s->event, NULL);
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
        free(m);
    }
    return NULL;
}

int multi_add(struct multi *m, CURL *easy)
{
    return curl_multi_add_handle(m->curl, easy) == CURLM_OK ? 0 : -ENOMEM;
}

void multi_remove(struct multi *m, CURL *easy)
{
    curl_multi_remove_handle(m->curl, easy);
}
