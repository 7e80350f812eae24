#include "systemd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "worker.h"

enum { MARGIN_US = 5000000 };

static bool is_for(const char *name, const char *what)
{
    size_t len = strlen(name), end = strlen(what);

    return len >= end && !strcmp(name + len - end, what);
}

/* 0 or -EINVAL. */
static int sort(struct systemd_sockets *s, int fd, const char *name, char ret_what[static 128])
{
    bool for_metrics = is_for(name, "metrics"), for_openai = is_for(name, "openai");
    bool for_rpc = !for_metrics && !for_openai;

    if (sd_is_socket(fd, for_rpc ? AF_UNIX : AF_UNSPEC, SOCK_STREAM, 1) <= 0) {
        snprintf(ret_what, 128, "descriptor %d (%.64s) is no listening%s stream socket", fd, name,
                 for_rpc ? " Unix" : "");
        return -EINVAL;
    }
    if (for_metrics)
        s->metrics = fd;
    else if (for_openai)
        s->openai[s->n_openai++] = fd;
    else
        s->rpc[s->n_rpc++] = fd;
    return 0;
}

int systemd_listen_fds(struct systemd_sockets *ret, char ret_what[static 128])
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names), r = 0;

    *ret = (struct systemd_sockets){.metrics = -1};
    if (n < 0)
        snprintf(ret_what, 128, "the sockets passed in (LISTEN_FDS, LISTEN_PID) can't be used: %s",
                 strerror(-n));
    if (n <= 0)
        return n;
    ret->rpc = calloc((size_t)n, sizeof *ret->rpc);
    ret->openai = calloc((size_t)n, sizeof *ret->openai);
    if (!ret->rpc || !ret->openai)
        r = -ENOMEM;
    for (int i = 0; i < n; i++) {
        if (r == 0)
            r = sort(ret, SD_LISTEN_FDS_START + i, names[i], ret_what);
        free(names[i]);
    }
    free(names);
    if (r < 0)
        systemd_sockets_done(ret);
    return r;
}

void systemd_sockets_done(struct systemd_sockets *s)
{
    free(s->rpc);
    free(s->openai);
    *s = (struct systemd_sockets){.metrics = -1};
}

bool systemd_is_service(void)
{
    return getenv("INVOCATION_ID") && getenv("NOTIFY_SOCKET");
}

/* ---- The line to the service manager ---- */

/* The tries take two minutes and some: nobody may be there any more. */
enum { AGAIN_US = 100000, AGAIN_MAX_US = 1000000, TRIES_MAX = 128, FLUSH_US = 1000000 };

/* Of NOTIFY_SOCKET. The length, or 0: there is none, or none of this kind. */
static socklen_t manager_address(struct sockaddr_un *address)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len = path ? strlen(path) : 0;

    if (len < 2 || len >= sizeof address->sun_path || (*path != '/' && *path != '@'))
        return 0;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, path, len);
    if (*path == '@')
        address->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (*path == '/'));
}

static void manager_open(struct systemd_manager *m)
{
    if (m->fd < 0)
        m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/* False: to be said again. sd_notify() itself would wait for ever for a reader that is stuck. */
static bool manager_tell(struct systemd_manager *m, const char *text, int flags)
{
    struct sockaddr_un address;
    socklen_t len = manager_address(&address);

    if (len == 0)
        return true;
    manager_open(m);
    return m->fd >= 0 && sendto(m->fd, text, strlen(text), MSG_NOSIGNAL | flags,
                                (struct sockaddr *)&address, len) >= 0;
}

static void forget_first(struct systemd_manager *m)
{
    m->n_waiting--;
    memmove(m->waiting[0], m->waiting[1], m->n_waiting * sizeof m->waiting[0]);
}

static void tell_waiting(struct systemd_manager *m)
{
    while (m->n_waiting > 0 && manager_tell(m, m->waiting[0], MSG_DONTWAIT)) {
        forget_first(m);
        m->n_tries = 0;
    }
    if (m->n_waiting > 0 && m->n_tries++ < TRIES_MAX)
        worker_arm(&m->again,
                   m->n_tries * AGAIN_US < AGAIN_MAX_US ? m->n_tries * AGAIN_US : AGAIN_MAX_US);
}

static void on_again(evutil_socket_t fd, short what, void *user)
{
    struct systemd_manager *m = user;

    (void)fd, (void)what;
    worker_rest(&m->again);
    tell_waiting(m);
}

int systemd_manager_init(struct systemd_manager *m, struct event_base *base)
{
    struct sockaddr_un address;

    *m = (struct systemd_manager){.fd = -1};
    evtimer_assign(&m->again, base, on_again, m);
    if (manager_address(&address) > 0)
        manager_open(m);
    return worker_rest(&m->again);
}

void systemd_manager_flush(struct systemd_manager *m)
{
    int64_t end = worker_now_us() + FLUSH_US, left;

    while (m->n_waiting > 0 && (left = end - worker_now_us()) > 0) {
        struct timeval patience = {.tv_sec = (time_t)(left / 1000000),
                                   .tv_usec = (suseconds_t)(left % 1000000)};
        manager_open(m);
        if (m->fd >= 0)
            setsockopt(m->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (manager_tell(m, m->waiting[0], 0))
            forget_first(m);
        else if (errno != EINTR)
            return;
    }
}

void systemd_manager_done(struct systemd_manager *m)
{
    if (!event_initialized(&m->again))
        return;
    systemd_manager_flush(m);
    evtimer_del(&m->again);
    if (m->fd >= 0)
        close(m->fd);
}

void systemd_notify(struct systemd_manager *m, const char *format, ...)
{
    va_list args;

    if (m->n_waiting == SYSTEMD_WAITING_MAX)
        forget_first(m);
    va_start(args, format);
    vsnprintf(m->waiting[m->n_waiting++], SYSTEMD_TEXT_MAX, format, args);
    va_end(args);
    m->n_tries = 0;
    tell_waiting(m);
}

void systemd_notify_reloading(struct systemd_manager *m)
{
    systemd_notify(m, "RELOADING=1\nMONOTONIC_USEC=%" PRIi64, worker_now_us());
}

void systemd_notify_alive(struct systemd_manager *m, const char *status)
{
    char text[SYSTEMD_TEXT_MAX];

    snprintf(text, sizeof text, "WATCHDOG=1%s%s", status ? "\nSTATUS=" : "", status ? status : "");
    (void)manager_tell(m, text, MSG_DONTWAIT);
}

void systemd_notify_stopping(struct systemd_manager *m, int64_t timeout_us)
{
    /* The calls are cut then, and told so. */
    if (__builtin_add_overflow(timeout_us, MARGIN_US, &timeout_us))
        timeout_us = INT64_MAX;
    systemd_notify(m,
                   "STOPPING=1\nSTATUS=Waiting for calls in flight\nEXTEND_TIMEOUT_USEC=%" PRIi64,
                   timeout_us);
}

int64_t systemd_watchdog_us(void)
{
    uint64_t us;

    return sd_watchdog_enabled(0, &us) > 0 ? (int64_t)(us / 3) : 0;
}
