#include "http.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "caller.h"

enum { RAW_MAX = 16384, HANGS_MS = 30000 };

static int open_connection(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The chunks of a body, joined: whether the last one is there. */
static bool join_chunks(const char *p, struct http_outcome *ret)
{
    size_t n = 0;

    for (;;) {
        char *end;
        size_t len = strtoul(p, &end, 16);
        if (end == p || strncmp(end, "\r\n", 2) != 0)
            return false;
        p = end + 2;
        if (len == 0)
            return true;
        if (strlen(p) < len + 2 || n + len >= sizeof ret->text)
            return false;
        memcpy(ret->text + n, p, len);
        n += len;
        p += len + 2;
    }
}

/* All that came, which ends in NUL; the connection is at its end. */
static void judge(const char *raw, struct http_outcome *ret)
{
    const char *body = strstr(raw, "\r\n\r\n"), *length = strstr(raw, "Content-Length: ");

    if (!body || sscanf(raw, "HTTP/1.1 %d ", &ret->status) != 1) {
        ret->status = 0;
        return;
    }
    body += 4;
    if (strstr(raw, "Transfer-Encoding: chunked")) {
        ret->is_whole = join_chunks(body, ret);
        return;
    }
    snprintf(ret->text, sizeof ret->text, "%s", body);
    ret->is_whole = length && strtoul(length + 16, NULL, 10) == strlen(body);
}

void http_call(const char *socket_path, const char *body, int patience_ms, void (*late)(void *user),
               void *user, struct http_outcome *ret)
{
    char raw[RAW_MAX], request[1024];
    size_t len = 0;
    int64_t begin = caller_now_ms();
    int fd = open_connection(socket_path);
    int n = snprintf(request, sizeof request,
                     "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     strlen(body), body);

    *ret = (struct http_outcome){0};
    if (fd < 0)
        return;
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) == n) {
        while (len < sizeof raw - 1) {
            struct pollfd pfd = {.fd = fd, .events = POLLIN};
            int r = poll(&pfd, 1, late ? patience_ms : HANGS_MS);
            if (r == 0 && late) {
                late(user);
                late = NULL;
                continue;
            }
            ssize_t got = r > 0 ? recv(fd, raw + len, sizeof raw - 1 - len, 0) : -1;
            ret->hangs = r == 0;
            if (got <= 0)
                break;
            len += (size_t)got;
        }
    }
    close(fd);
    raw[len] = '\0';
    judge(raw, ret);
    ret->hangs = ret->hangs || caller_now_ms() - begin > HANGS_MS;
}
