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

static bool is_for_metrics(const char *name)
{
    size_t len = strlen(name);

    return len >= 7 && !strcmp(name + len - 7, "metrics");
}

int systemd_listen_fds(int **ret_fds, int *ret_metrics, char ret_what[static 128])
{
    char **names = NULL;
    int metrics = -1;
    int n = sd_listen_fds_with_names(1, &names), n_kept = 0, r = 0;

    if (n < 0)
        snprintf(ret_what, 128, "the sockets passed in (LISTEN_FDS, LISTEN_PID) can't be used: %s",
                 strerror(-n));
    *ret_metrics = -1;
    if (n <= 0)
        return n;
    int *fds = calloc((size_t)n, sizeof *fds);
    if (!fds)
        r = -ENOMEM;
    for (int i = 0; r == 0 && i < n; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        bool for_metrics = is_for_metrics(names[i]);
        if (sd_is_socket(fd, for_metrics ? AF_UNSPEC : AF_UNIX, SOCK_STREAM, 1) <= 0) {
            snprintf(ret_what, 128, "descriptor %d (%.64s) is no listening Unix stream socket", fd,
                     names[i]);
            r = -EINVAL;
        } else if (for_metrics) {
            metrics = fd;
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
    *ret_metrics = metrics;
    return n_kept;
}

bool systemd_is_service(void)
{
    return getenv("INVOCATION_ID") && getenv("NOTIFY_SOCKET");
}

/* sd_notify() itself would wait for ever for a reader that is stuck. */
static void send_state(const char *text, int flags)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 1};
    size_t len = path ? strlen(path) : 0;

    if (len < 2 || len >= sizeof address.sun_path || (*path != '/' && *path != '@'))
        return;
    memcpy(address.sun_path, path, len);
    if (*path == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (sendto(fd, text, strlen(text), MSG_NOSIGNAL | flags, (struct sockaddr *)&address,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0) {
        /* Nobody is there; all works without. */
    }
    close(fd);
}

void systemd_notify(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    send_state(text, 0);
}

void systemd_notify_watchdog(void)
{
    send_state("WATCHDOG=1", MSG_DONTWAIT);
}

void systemd_notify_reloading(void)
{
    systemd_notify("RELOADING=1\nMONOTONIC_USEC=%" PRIi64, worker_now_us());
}

void systemd_notify_stopping(int64_t timeout_us)
{
    /* The calls are cut then, and told so. */
    if (__builtin_add_overflow(timeout_us, MARGIN_US, &timeout_us))
        timeout_us = INT64_MAX;
    systemd_notify("STOPPING=1\nSTATUS=Waiting for calls in flight\nEXTEND_TIMEOUT_USEC=%" PRIi64,
                   timeout_us);
}

int64_t systemd_watchdog_us(void)
{
    uint64_t us;

    return sd_watchdog_enabled(0, &us) > 0 ? (int64_t)(us / 3) : 0;
}
