#include "systemd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "worker.h"

int systemd_listen_fds(int **ret_fds, char ret_what[static 128])
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names), n_kept = 0, r = 0;

    if (n <= 0)
        return n;
    int *fds = calloc((size_t)n, sizeof *fds);
    if (!fds)
        r = -ENOMEM;
    for (int i = 0; r == 0 && i < n; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        size_t len = strlen(names[i]);
        if (len >= 7 && !strcmp(names[i] + len - 7, "metrics"))
            continue;
        if (sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) <= 0) {
            snprintf(ret_what, 128, "descriptor %d (%.64s) is no listening Unix stream socket", fd,
                     names[i]);
            r = -EINVAL;
        } else {
            fds[n_kept++] = fd;
        }
    }
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    if (r < 0) {
        free(fds);
        return r;
    }
    *ret_fds = fds;
    return n_kept;
}

bool systemd_is_service(void)
{
    return getenv("INVOCATION_ID") && getenv("NOTIFY_SOCKET");
}

/* ---- The line to the service manager ---- */

/* Two minutes and some: nobody may be there any more. */
enum { AGAIN_US = 100000, AGAIN_MAX_US = 1000000, TRIES_MAX = 128 };

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

/* False: to be said again. */
static bool manager_tell(struct systemd_manager *m, const char *text)
{
    struct sockaddr_un address;
    socklen_t len = manager_address(&address);

    if (len == 0)
        return sd_notify(0, text) >= 0;
    manager_open(m);
    return m->fd >= 0 && sendto(m->fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
                                (struct sockaddr *)&address, len) >= 0;
}

static void forget_first(struct systemd_manager *m)
{
    m->n_waiting--;
    memmove(m->waiting[0], m->waiting[1], m->n_waiting * sizeof m->waiting[0]);
}

static void tell_waiting(struct systemd_manager *m)
{
    while (m->n_waiting > 0 && manager_tell(m, m->waiting[0])) {
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

void systemd_manager_done(struct systemd_manager *m)
{
    if (!event_initialized(&m->again))
        return;
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

void systemd_notify_alive(struct systemd_manager *m)
{
    (void)manager_tell(m, "WATCHDOG=1");
}

int64_t systemd_watchdog_us(void)
{
    uint64_t us;

    return sd_watchdog_enabled(0, &us) > 0 ? (int64_t)(us / 3) : 0;
}
