/*
 * The floor of what a process between caller and upstream costs: bytes from a Unix socket to TCP on
 * loopback and back, one upstream connection for each caller's, looked into by nobody.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { TURN_EVENTS = 256, PIECE_BYTES = 65536 };

struct pair;

/* One direction ends here. */
struct end {
    struct pair *pair;
    struct end *other;
    int fd;
    size_t start, filled; /* of what this end's socket did not take */
    char *held;
};

struct pair {
    struct end caller, upstream;
    bool is_closed;
    struct pair *next_closed;
};

struct relay {
    int epoll, listener;
    struct sockaddr_in upstream;
    struct pair *closed; /* freed when no event can name them any more */
};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "bench_relay: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void watch(struct relay *r, struct end *e, int operation)
{
    /* What is held for this end waits for space; until then the other is not read. */
    struct epoll_event event = {
        .events = (e->filled ? EPOLLOUT : 0u) | (e->other->filled ? 0u : EPOLLIN), .data.ptr = e};

    if (epoll_ctl(r->epoll, operation, e->fd, &event) < 0)
        fail("epoll_ctl");
}

static void pair_close(struct relay *r, struct pair *p)
{
    if (p->is_closed)
        return;
    p->is_closed = true;
    close(p->caller.fd);
    close(p->upstream.fd);
    p->next_closed = r->closed;
    r->closed = p;
}

static void pair_free(struct pair *p)
{
    free(p->caller.held);
    free(p->upstream.held);
    free(p);
}

static void pair_accept(struct relay *r)
{
    int fd = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;

    if (fd < 0)
        return;
    struct pair *p = calloc(1, sizeof *p);
    if (!p)
        fail("calloc");
    p->caller = (struct end){.pair = p, .other = &p->upstream, .fd = fd};
    p->upstream = (struct end){.pair = p, .other = &p->caller};
    p->upstream.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->upstream.fd < 0 ||
        setsockopt(p->upstream.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        connect(p->upstream.fd, (struct sockaddr *)&r->upstream, sizeof r->upstream) < 0)
        fail("the upstream");
    watch(r, &p->caller, EPOLL_CTL_ADD);
    watch(r, &p->upstream, EPOLL_CTL_ADD);
}

/* Keeps what the other end's socket did not take. */
static void hold(struct relay *r, struct end *to, const char *data, size_t n)
{
    if (!to->held && !(to->held = malloc(PIECE_BYTES)))
        fail("malloc");
    memcpy(to->held, data, n);
    to->start = 0;
    to->filled = n;
    watch(r, to, EPOLL_CTL_MOD);
    watch(r, to->other, EPOLL_CTL_MOD);
}

static bool end_read(struct relay *r, struct end *from)
{
    char piece[PIECE_BYTES];
    ssize_t n = recv(from->fd, piece, sizeof piece, MSG_DONTWAIT);

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    ssize_t sent = send(from->other->fd, piece, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return false;
    sent = sent < 0 ? 0 : sent;
    if (sent < n)
        hold(r, from->other, piece + sent, (size_t)(n - sent));
    return true;
}

static bool end_write(struct relay *r, struct end *to)
{
    ssize_t n = send(to->fd, to->held + to->start, to->filled, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0)
        return errno == EAGAIN;
    to->start += (size_t)n;
    to->filled -= (size_t)n;
    if (to->filled == 0) {
        watch(r, to, EPOLL_CTL_MOD);
        watch(r, to->other, EPOLL_CTL_MOD);
    }
    return true;
}

static void end_run(struct relay *r, struct end *e, uint32_t events)
{
    bool ok = !(events & EPOLLERR);

    if (e->pair->is_closed)
        return;
    if (ok && events & EPOLLOUT && e->filled)
        ok = end_write(r, e);
    if (ok && events & (EPOLLIN | EPOLLHUP) && !e->other->filled)
        ok = end_read(r, e);
    if (!ok)
        pair_close(r, e->pair);
}

static void listen_at(struct relay *r, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (r->listener < 0 || bind(r->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(r->listener, 4096) < 0)
        fail(path);
}

int main(int argc, char **argv)
{
    struct relay r = {.upstream = {.sin_family = AF_INET}};
    struct epoll_event listening = {.events = EPOLLIN}, events[TURN_EVENTS];

    if (argc != 3) {
        fprintf(stderr, "usage: bench_relay SOCKET UPSTREAM_PORT\n");
        return EXIT_FAILURE;
    }
    r.upstream.sin_port = htons((uint16_t)atoi(argv[2]));
    r.upstream.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listen_at(&r, argv[1]);
    r.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (r.epoll < 0 || epoll_ctl(r.epoll, EPOLL_CTL_ADD, r.listener, &listening) < 0)
        fail("epoll");
    for (;;) {
        int n = epoll_wait(r.epoll, events, TURN_EVENTS, -1);
        if (n < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                end_run(&r, events[i].data.ptr, events[i].events);
            else
                pair_accept(&r);
        }
        for (struct pair *p; (p = r.closed);) {
            r.closed = p->next_closed;
            pair_free(p);
        }
    }
}
