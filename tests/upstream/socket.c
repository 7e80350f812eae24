/* Addresses to sockets and URLs; listens to nothing itself. */
#include "socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(int fd)
{
    int r = -errno;

    if (fd >= 0)
        close(fd);
    return r;
}

static int bind_unix(const char *path, int *ret_fd, char ret_url[SOCKET_URL_MAX])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    stpcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return fail(fd);
    *ret_fd = fd;
    snprintf(ret_url, SOCKET_URL_MAX, "unix:%s:/v1", path);
    return 0;
}

static void write_url(const struct sockaddr_storage *address, char ret_url[SOCKET_URL_MAX])
{
    char host[INET6_ADDRSTRLEN];

    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(ret_url, SOCKET_URL_MAX, "http://[%s]:%u/v1", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(ret_url, SOCKET_URL_MAX, "http://%s:%u/v1", host, ntohs(in->sin_port));
    }
}

/* "127.0.0.1:PORT" or "[::1]:PORT". libevent's reader takes no port 0. */
static int parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len)
{
    const char *colon = strrchr(text, ':');
    bool is_v6 = text[0] == '[';
    char host[INET6_ADDRSTRLEN], *end;

    if (!colon || colon[1] < '0' || colon[1] > '9')
        return -EINVAL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    size_t len = (size_t)(colon - text) - 2 * is_v6;
    if (*end || port > UINT16_MAX || len >= sizeof host || (is_v6 && colon[-1] != ']'))
        return -EINVAL;
    memcpy(host, text + is_v6, len);
    host[len] = '\0';

    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(is_v6 ? AF_INET6 : AF_INET, host,
                  is_v6 ? (void *)&in6.sin6_addr : (void *)&in.sin_addr) != 1)
        return -EINVAL;
    *ret_len = is_v6 ? sizeof in6 : sizeof in;
    memcpy(ret, is_v6 ? (void *)&in6 : (void *)&in, *ret_len);
    return 0;
}

static int bind_internet(const char *text, int *ret_fd, char ret_url[SOCKET_URL_MAX])
{
    struct sockaddr_storage address;
    socklen_t len, whole = sizeof address;
    int on = 1, r = parse(text, &address, &len);

    if (r < 0)
        return r;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Accepted sockets inherit TCP_NODELAY: chunks of a stream are small and shall not wait. */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&address, len) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &whole) < 0)
        return fail(fd);
    *ret_fd = fd;
    write_url(&address, ret_url);
    return 0;
}

int socket_bind(const char *address, int *ret_fd, char ret_url[SOCKET_URL_MAX])
{
    static const char unix_prefix[] = "unix:";

    if (!strncmp(address, unix_prefix, strlen(unix_prefix)))
        return bind_unix(address + strlen(unix_prefix), ret_fd, ret_url);
    return bind_internet(address, ret_fd, ret_url);
}
