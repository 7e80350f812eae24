/* Clients, and what they are told. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* Environment variables do not count in programs that run with other rights than their user's. */
static int find_socket(const char *path, char *out, size_t size)
{
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    int n;

    if (path && !*path)
        return -EINVAL;
    if (!path)
        path = secure_getenv("COMPLETIOND_SOCKET");
    if (path && *path) {
        n = snprintf(out, size, "%s", path);
        return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
    }
    n = runtime && *runtime ? snprintf(out, size, "%s/completiond/rpc.sock", runtime) : -1;
    if (n < 0 || (size_t)n >= size || access(out, F_OK) < 0)
        snprintf(out, size, "/run/completiond/rpc.sock");
    return 0;
}

EXPORT int completion_client_new(const char *path, completion_client **ret)
{
    completion_client *c = ret ? calloc(1, sizeof *c) : NULL;

    if (!c)
        return ret ? -ENOMEM : -EINVAL;
    int r = find_socket(path, c->socket, sizeof c->socket);
    if (r < 0) {
        free(c);
        return r;
    }
    c->pid = getpid();
    c->epoll_fd = -1;
    c->deadline_us = INT64_MAX;
    c->resend = 1;
    LIST_INIT(&c->channels);
    LIST_INIT(&c->calls);
    TAILQ_INIT(&c->unsent);
    TAILQ_INIT(&c->ready);
    TAILQ_INIT(&c->noticed);
    *ret = c;
    return 0;
}

EXPORT const char *completion_client_socket(const completion_client *c)
{
    return c ? c->socket : "";
}

EXPORT void completion_client_set_wait(completion_client *c,
                                       int (*wait)(void *user, int64_t elapsed_ms), void *user,
                                       int interval_ms)
{
    if (!c)
        return;
    c->wait = wait;
    c->wait_user = user;
    c->wait_interval_ms = interval_ms;
}

EXPORT int completion_client_allow_server_uid(completion_client *c, int64_t uid)
{
    /* The last one means none, to the kernel. */
    if (!c || uid < 0 || uid >= UINT32_MAX)
        return -EINVAL;
    if (c->n_server_uids == SERVER_UIDS_MAX)
        return -ENOSPC;
    c->server_uids[c->n_server_uids++] = (uid_t)uid;
    return 0;
}

EXPORT int completion_client_set_reconnect(completion_client *c, int64_t wait_ms, int resend)
{
    if (!c || resend < 0)
        return -EINVAL;
    c->reconnect_wait_ms = wait_ms;
    c->resend = resend;
    return 0;
}
