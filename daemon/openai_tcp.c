#include "openai_tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/http.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "config.h"
#include "worker.h"

enum { BACKLOG = 1024, NOBODY = 65534, TOKEN_BYTES = 32 };

/* ---- Sockets ---- */

union address {
    struct sockaddr any;
    struct sockaddr_un local;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool is_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET)
        return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
    return a->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
}

bool openai_tcp_is_address(const char *text)
{
    return !strchr(text, '/') && strchr(text, ':');
}

static int parse_port(const char *text, in_port_t *ret)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || port > 65535)
        return -EINVAL;
    *ret = htons((in_port_t)port);
    return 0;
}

/* HOST:PORT, without asking anybody for names. */
static int parse(const char *text, union address *ret, socklen_t *ret_len)
{
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    char host[64];

    *ret = (union address){.any.sa_family = AF_INET};
    if (len == 0 || len >= sizeof host)
        return -EINVAL;
    memcpy(host, text, len);
    host[len] = '\0';
    if (host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = '\0';
        ret->v6.sin6_family = AF_INET6;
        *ret_len = sizeof ret->v6;
        return inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) == 1
                   ? parse_port(colon + 1, &ret->v6.sin6_port)
                   : -EINVAL;
    }
    *ret_len = sizeof ret->v4;
    return inet_pton(AF_INET, strcmp(host, "localhost") != 0 ? host : "127.0.0.1",
                     &ret->v4.sin_addr) == 1
               ? parse_port(colon + 1, &ret->v4.sin_port)
               : -EINVAL;
}

int openai_tcp_listen(const char *text)
{
    union address address;
    socklen_t len;
    int on = 1, r = parse(text, &address, &len);

    if (r < 0)
        return r;
    if (!is_loopback(&address))
        return -EACCES;
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, &address.any, len) < 0 || listen(fd, BACKLOG) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static bool address_of(int fd, union address *ret)
{
    socklen_t len = sizeof *ret;

    *ret = (union address){.any.sa_family = AF_UNSPEC};
    return getsockname(fd, &ret->any, &len) == 0;
}

void openai_tcp_name(int fd, char text[static OPENAI_TCP_NAME_SIZE])
{
    union address a;
    char host[INET6_ADDRSTRLEN] = "";

    snprintf(text, OPENAI_TCP_NAME_SIZE, "a socket");
    if (!address_of(fd, &a))
        return;
    if (a.any.sa_family == AF_UNIX && a.local.sun_path[0])
        snprintf(text, OPENAI_TCP_NAME_SIZE, "%.*s", (int)sizeof a.local.sun_path,
                 a.local.sun_path);
    else if (a.any.sa_family == AF_INET)
        snprintf(text, OPENAI_TCP_NAME_SIZE, "%s:%u",
                 inet_ntop(AF_INET, &a.v4.sin_addr, host, sizeof host), ntohs(a.v4.sin_port));
    else if (a.any.sa_family == AF_INET6)
        snprintf(text, OPENAI_TCP_NAME_SIZE, "[%s]:%u",
                 inet_ntop(AF_INET6, &a.v6.sin6_addr, host, sizeof host), ntohs(a.v6.sin6_port));
}

bool openai_tcp_is_local(int fd)
{
    union address a;

    return address_of(fd, &a) && (a.any.sa_family == AF_UNIX || is_loopback(&a));
}

int openai_tcp_knows_caller(int fd)
{
    union address a;

    return address_of(fd, &a) ? a.any.sa_family == AF_UNIX : -errno;
}

/* ---- Requests ---- */

void openai_tcp_nobody(struct caller *caller)
{
    *caller = (struct caller){.uid = NOBODY, .gid = NOBODY};
}

/* A page whose name was made to point here would name itself. */
static bool is_our_name(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t len = strlen(names[i]);
        if (!strncasecmp(host, names[i], len) &&
            (!host[len] ||
             (host[len] == ':' && strspn(host + len + 1, "0123456789") == strlen(host + len + 1))))
            return true;
    }
    return false;
}

static bool names_us(struct evhttp_request *http)
{
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(http);
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(http);
    const char *host = uri ? evhttp_uri_get_host(uri) : NULL;
    const struct evkeyval *header;
    unsigned n = 0;

    TAILQ_FOREACH (header, headers, next) {
        if (strcasecmp(header->key, "Host") != 0)
            continue;
        if (++n > 1 || !is_our_name(header->value))
            return false;
    }
    return n == 1 && (!host || is_our_name(host));
}

/* Of all types, a page may send others without asking first. */
static bool is_json(struct evhttp_request *http)
{
    const char *type = evhttp_find_header(evhttp_request_get_input_headers(http), "Content-Type");

    return type && !strncasecmp(type, "application/json", 16) && strchr(" \t;", type[16]);
}

const struct openai_refusal *openai_tcp_check(struct evhttp_request *http)
{
    static const struct openai_refusal
        misdirected = {421, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST", "Host",
                       "the header Host must be localhost, 127.0.0.1 or [::1], with a port or "
                       "without"},
        untyped = {415, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST", "Content-Type",
                   "the header Content-Type must be application/json"};

    if (!names_us(http))
        return &misdirected;
    if (evhttp_request_get_command(http) == EVHTTP_REQ_POST && !is_json(http))
        return &untyped;
    return NULL;
}

/* ---- Tokens ---- */

static bool is_same(const struct secret *token, const char *bearer, size_t len)
{
    volatile size_t differences = token->len ^ len;

    for (size_t i = 0; i < len; i++)
        differences |= (size_t)(unsigned char)bearer[i] ^
                       (size_t)(unsigned char)token->text[i < token->len ? i : 0];
    return differences == 0;
}

bool openai_tcp_identify(const struct config *config, const struct secret *made, const char *bearer,
                         struct caller *ret)
{
    size_t len = bearer ? strlen(bearer) : 0;
    const struct config_token *found = NULL;

    if (len == 0 || len > SECRET_MAX)
        return false;
    if (config->n_tokens == 0 && made && is_same(made, bearer, len)) {
        *ret = (struct caller){.uid = geteuid(), .gid = getegid()};
        return true;
    }
    for (size_t i = 0; i < config->n_tokens; i++)
        if (is_same(config->tokens[i]->token, bearer, len))
            found = config->tokens[i];
    if (found)
        *ret = (struct caller){
            .uid = found->uid,
            .gid = found->gid,
            .groups = found->groups,
            .n_groups = found->n_groups,
        };
    return found;
}

bool openai_tcp_needs_token(const struct config *config, const int *fds, size_t n)
{
    bool has_tcp = false;

    for (size_t i = 0; i < n; i++)
        has_tcp = has_tcp || openai_tcp_knows_caller(fds[i]) <= 0;
    return has_tcp && config->openai_require_token && config->n_tokens == 0;
}

/* So that it is there whole, or not at all. */
static int write_token(const char *path)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char chance[TOKEN_BYTES];
    char text[2 * TOKEN_BYTES + 1], temporary[256];
    int r = 0;

    if (getrandom(chance, sizeof chance, 0) != sizeof chance)
        return -EIO;
    for (size_t i = 0; i < TOKEN_BYTES; i++) {
        text[2 * i] = digits[chance[i] >> 4];
        text[2 * i + 1] = digits[chance[i] & 15];
    }
    text[2 * TOKEN_BYTES] = '\n';
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return -ENAMETOOLONG;
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, sizeof text) != sizeof text || link(temporary, path) < 0)
        r = errno ? -errno : -EIO;
    unlink(temporary);
    close(fd);
    explicit_bzero(text, sizeof text);
    explicit_bzero(chance, sizeof chance);
    /* Somebody else has made one in the meantime. */
    return r == -EEXIST ? 0 : r;
}

int openai_tcp_make_token(const char *path, struct secret **ret, const char **ret_why)
{
    int r = secret_read(path, ret, ret_why);

    if (r != -ENOENT)
        return r;
    r = write_token(path);
    if (r < 0) {
        *ret_why = strerror(-r);
        return r;
    }
    return secret_read(path, ret, ret_why);
}
