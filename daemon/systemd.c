#include "systemd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

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

void systemd_notify(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sd_notify(0, text);
}

void systemd_notify_reloading(void)
{
    systemd_notify("RELOADING=1\nMONOTONIC_USEC=%" PRIi64, worker_now_us());
}

int64_t systemd_watchdog_us(void)
{
    uint64_t us;

    return sd_watchdog_enabled(0, &us) > 0 ? (int64_t)(us / 3) : 0;
}
