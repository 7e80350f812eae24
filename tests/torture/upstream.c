#include "upstream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_MAX_BYTES = 65536 };

struct port {
    struct upstream_options options;
    SSL_CTX *tls;
    int fd;
};

struct peer {
    const struct port *port;
    SSL *ssl;
    int fd;
    size_t len; /* of what has been read and not been used */
    char data[REQUEST_MAX_BYTES];
};

static atomic_bool is_next_busy;

void upstream_be_busy(void)
{
    atomic_store(&is_next_busy, true);
}

/* ---- Bytes ---- */

static bool peer_write(struct peer *p, const char *text)
{
    size_t len = strlen(text);

    if (p->ssl)
        return SSL_write(p->ssl, text, (int)len) == (int)len;
    return send(p->fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool peer_read(struct peer *p)
{
    size_t space = sizeof p->data - 1 - p->len;
    ssize_t n = p->ssl ? SSL_read(p->ssl, p->data + p->len, (int)space)
                       : recv(p->fd, p->data + p->len, space, 0);

    if (n <= 0)
        return false;
    p->len += (size_t)n;
    p->data[p->len] = '\0';
    return true;
}

/* Whether it asks for a stream: 0, 1; -1: there is no request any more. */
static int read_request(struct peer *p)
{
    const char *end, *length;

    while (!(end = p->len > 0 ? strstr(p->data, "\r\n\r\n") : NULL))
        if (!peer_read(p))
            return -1;
    size_t head = (size_t)(end - p->data) + 4;
    length = strcasestr(p->data, "\r\ncontent-length:");
    size_t whole = head + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
    while (p->len < whole)
        if (!peer_read(p))
            return -1;
    int stream = memmem(p->data + head, whole - head, "\"stream\":true", 13) != NULL;
    memmove(p->data, p->data + whole, p->len - whole);
    p->len -= whole;
    p->data[p->len] = '\0';
    return stream;
}

/* ---- Answers ---- */

#define CHOICE(text, reason)                                                                       \
    "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\","    \
    "\"choices\":[{\"index\":0,\"text\":\"" text "\",\"logprobs\":null,\"finish_reason\":" reason  \
    "}]}"

static bool answer_whole(struct peer *p)
{
    static const char body[] = CHOICE(UPSTREAM_TEXT, "\"stop\"");
    char text[1024];

    snprintf(text, sizeof text,
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req-1\r\n"
             "Content-Length: %zu\r\n%s\r\n%s",
             sizeof body - 1, p->port->options.closes ? "Connection: close\r\n" : "", body);
    return peer_write(p, text);
}

static bool send_event(struct peer *p, const char *data)
{
    char text[1024];

    snprintf(text, sizeof text, "%zx\r\ndata: %s\n\n\r\n", strlen(data) + 8, data);
    return peer_write(p, text);
}

static bool answer_stream(struct peer *p)
{
    static const char *const chunks[UPSTREAM_N_CHUNKS] = {
        CHOICE("one ", "null"),  CHOICE("two ", "null"),        CHOICE("three ", "null"),
        CHOICE("four ", "null"), CHOICE("five ", "\"length\""),
    };

    if (!peer_write(p, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                       "Transfer-Encoding: chunked\r\nx-request-id: req-1\r\n\r\n"))
        return false;
    for (size_t i = 0; i < UPSTREAM_N_CHUNKS; i++)
        if (!send_event(p, chunks[i]))
            return false;
    return peer_write(p, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static bool answer_busy(struct peer *p)
{
    return peer_write(p, "HTTP/1.1 503 Busy\r\nRetry-After-Ms: 1\r\nContent-Length: 0\r\n\r\n");
}

static void serve(struct peer *p)
{
    int stream;

    while ((stream = read_request(p)) >= 0) {
        bool busy = p->port->options.busy && atomic_exchange(&is_next_busy, false);
        if (!(busy     ? answer_busy(p)
              : stream ? answer_stream(p)
                       : answer_whole(p)) ||
            p->port->options.closes)
            return;
    }
}

/* ---- Connections ---- */

static bool greet(struct peer *p)
{
    if (!p->port->tls)
        return true;
    p->ssl = SSL_new(p->port->tls);
    return p->ssl && SSL_set_fd(p->ssl, p->fd) == 1 && SSL_accept(p->ssl) == 1;
}

static void *run_peer(void *user)
{
    struct peer *p = user;

    if (greet(p)) {
        serve(p);
        if (p->ssl)
            SSL_shutdown(p->ssl);
    }
    SSL_free(p->ssl);
    close(p->fd);
    free(p);
    return NULL;
}

static void start_peer(const struct port *port, int fd)
{
    struct peer *p = calloc(1, sizeof *p);
    pthread_t thread;
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (!p) {
        close(fd);
        return;
    }
    p->port = port;
    p->fd = fd;
    if (pthread_create(&thread, NULL, run_peer, p) == 0) {
        pthread_detach(thread);
        return;
    }
    close(fd);
    free(p);
}

static void *run_port(void *user)
{
    const struct port *port = user;
    int fd;

    while ((fd = accept4(port->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == EINTR)
        if (fd >= 0)
            start_peer(port, fd);
    return NULL;
}

static SSL_CTX *new_tls(const char *certificate)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());

    if (tls && SSL_CTX_use_certificate_chain_file(tls, certificate) == 1 &&
        SSL_CTX_use_PrivateKey_file(tls, certificate, SSL_FILETYPE_PEM) == 1)
        return tls;
    SSL_CTX_free(tls);
    return NULL;
}

unsigned upstream_start(const struct upstream_options *options)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    static struct port ports[8];
    static size_t n_ports;
    struct port *port = &ports[n_ports];
    pthread_t thread;

    *port = (struct port){.options = *options};
    if (options->certificate && !(port->tls = new_tls(options->certificate)))
        return 0;
    port->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (port->fd < 0 || bind(port->fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        getsockname(port->fd, (struct sockaddr *)&address, &len) < 0 ||
        listen(port->fd, 1024) < 0 || pthread_create(&thread, NULL, run_port, port) != 0)
        return 0;
    n_ports++;
    pthread_detach(thread);
    return ntohs(address.sin_port);
}
