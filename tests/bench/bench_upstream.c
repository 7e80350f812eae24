/*
 * The upstream of the benchmarks: as little HTTP/1.1 as a well-meaning client needs, so that it is
 * never what limits. Answers every POST with the same completion, or with a stream of max_tokens
 * events, which go out as fast as they are taken, several a write. But the model
 *
 *     paced        sends one event each interval, from a random phase on; its text is the time of
 *                  CLOCK_MONOTONIC at which it is sent, which load.c knows how to read
 *     paced-N      the same, each N microseconds
 *     silent       sends one event of a stream, and no more
 *     stuck        never answers
 *
 * It is no test server: requests are searched for three values, not understood, and it listens on
 * loopback or a Unix socket only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define EVENT_HEAD                                                                                 \
    "data: {\"id\":\"cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7\",\"object\":\"text_completion\","              \
    "\"created\":1589478378,\"model\":\"gpt-3.5-turbo-instruct\","                                 \
    "\"system_fingerprint\":\"fp_44709d6fcb1c2e07a94e5b1\",\"usage\":null,"                        \
    "\"choices\":[{\"text\":\" t"
#define EVENT_MIDDLE "\",\"index\":0,\"logprobs\":null,\"finish_reason\":"
#define EVENT        EVENT_HEAD "oken" EVENT_MIDDLE "null}]}\n\n"
#define FINISH       EVENT_HEAD "oken" EVENT_MIDDLE "\"length\"}]}\n\n"
#define STAMP_EVENT  EVENT_HEAD "0123456789abcdef" EVENT_MIDDLE "null}]}\n\n"
#define DONE         "data: [DONE]\n\n"
#define BODY                                                                                       \
    "{\"id\":\"cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7\",\"object\":\"text_completion\","                    \
    "\"created\":1589478378,\"model\":\"gpt-3.5-turbo-instruct\",\"choices\":[{\"text\":"          \
    "\"\\n\\nThis is indeed a "                                                                    \
    "test\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}],"                         \
    "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}"

static const char stream_head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

enum {
    REQUEST_BYTES = 65536,
    EVENTS_MAX = 256, /* of one write */
    EVENT_BYTES = sizeof EVENT - 1,
    STAMP_DIGITS = 16,
    WRITE_BYTES = EVENTS_MAX * EVENT_BYTES + sizeof FINISH + sizeof DONE + sizeof stream_head + 64,
    TURN_EVENTS = 256,
};

struct connection {
    TAILQ_ENTRY(connection) paced; /* while it waits for its time */
    int64_t due_ns;
    int fd;
    int64_t interval_ns; /* 0: as fast as it goes */
    bool is_streaming, is_silent, waits_for_time, waits_for_space;
    unsigned n_events; /* still to be sent */
    bool head_sent;
    size_t n_request;
    char request[REQUEST_BYTES];
    size_t out_start, out_end; /* what the socket did not take */
    char out[WRITE_BYTES];
};

struct upstream {
    int epoll, listener;
    int64_t interval_ns;
    unsigned events_per_write;
    unsigned seed;
    TAILQ_HEAD(paced_queue, connection) paced; /* by time */
    char events[EVENTS_MAX * EVENT_BYTES];
    char stamp_event[sizeof STAMP_EVENT];
    char unary[sizeof BODY + 160];
    size_t unary_bytes;
};

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "bench_upstream: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- Connections ---- */

static void connection_close(struct upstream *u, struct connection *c)
{
    if (c->waits_for_time)
        TAILQ_REMOVE(&u->paced, c, paced);
    close(c->fd);
    free(c);
}

static void connection_watch(struct upstream *u, struct connection *c, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (c->waits_for_space ? EPOLLOUT : 0u),
                                .data.ptr = c};

    if (epoll_ctl(u->epoll, operation, c->fd, &event) < 0)
        fail("epoll_ctl");
}

static void connection_accept(struct upstream *u)
{
    int fd = accept4(u->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
    struct connection *c = fd < 0 ? NULL : calloc(1, sizeof *c);

    if (!c) {
        if (fd >= 0)
            close(fd);
        return;
    }
    /* Fails on a Unix socket, which needs none. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->fd = fd;
    connection_watch(u, c, EPOLL_CTL_ADD);
}

static void wait_for_space(struct upstream *u, struct connection *c, bool wait)
{
    if (c->waits_for_space == wait)
        return;
    c->waits_for_space = wait;
    connection_watch(u, c, EPOLL_CTL_MOD);
}

/* Sends the pieces, and keeps what the socket does not take. False: the connection is broken. */
static bool connection_send(struct connection *c, struct iovec *pieces, int n_pieces)
{
    ssize_t n = writev(c->fd, pieces, n_pieces);

    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return false;
    size_t sent = n < 0 ? 0 : (size_t)n;
    c->out_start = c->out_end = 0;
    for (int i = 0; i < n_pieces; i++) {
        size_t skip = sent < pieces[i].iov_len ? sent : pieces[i].iov_len;
        sent -= skip;
        memcpy(c->out + c->out_end, (char *)pieces[i].iov_base + skip, pieces[i].iov_len - skip);
        c->out_end += pieces[i].iov_len - skip;
    }
    return true;
}

/* ---- Streams ---- */

static struct iovec stamped_event(struct upstream *u)
{
    static const char digits[] = "0123456789abcdef";
    char *last = u->stamp_event + sizeof EVENT_HEAD - 1 + STAMP_DIGITS - 1;
    uint64_t now = (uint64_t)now_ns();

    for (int i = 0; i < STAMP_DIGITS; i++, now >>= 4)
        last[-i] = digits[now & 15];
    return (struct iovec){u->stamp_event, sizeof u->stamp_event - 1};
}

/* The next events as one HTTP chunk; the last brings the end with it. */
static bool stream_write(struct upstream *u, struct connection *c)
{
    static char finish[] = FINISH DONE "\r\n0\r\n\r\n", line_end[] = "\r\n";
    unsigned most = c->interval_ns > 0 || c->is_silent ? 1 : u->events_per_write;
    unsigned n = c->n_events < most ? c->n_events : most;
    bool is_last = n == c->n_events;
    struct iovec events = {u->events, (is_last ? n - 1 : n) * (size_t)EVENT_BYTES};
    if (c->interval_ns > 0 && !is_last)
        events = stamped_event(u);
    size_t all = events.iov_len + (is_last ? sizeof FINISH - 1 + sizeof DONE - 1 : 0);
    char size[sizeof stream_head + 24];
    int n_size = snprintf(size, sizeof size, "%s%zx\r\n", c->head_sent ? "" : stream_head, all);
    struct iovec pieces[] = {
        {size, (size_t)n_size},
        events,
        {is_last ? finish : line_end, is_last ? sizeof finish - 1 : sizeof line_end - 1},
    };

    c->head_sent = true;
    c->n_events -= n;
    if (is_last)
        c->is_streaming = false;
    return connection_send(c, pieces, 3);
}

static void stream_wait(struct upstream *u, struct connection *c, int64_t due_ns)
{
    struct connection *before = TAILQ_LAST(&u->paced, paced_queue);

    while (before && before->due_ns > due_ns)
        before = TAILQ_PREV(before, paced_queue, paced);
    if (before)
        TAILQ_INSERT_AFTER(&u->paced, before, c, paced);
    else
        TAILQ_INSERT_HEAD(&u->paced, c, paced);
    c->due_ns = due_ns;
    c->waits_for_time = true;
}

/* Sends what is due, as far as the socket takes it. False: the connection is broken. */
static bool stream_go_on(struct upstream *u, struct connection *c)
{
    if (c->out_start < c->out_end) {
        ssize_t n = write(c->fd, c->out + c->out_start, c->out_end - c->out_start);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        c->out_start += n < 0 ? 0 : (size_t)n;
    } else if (c->is_streaming && !stream_write(u, c)) {
        return false;
    }
    bool is_held = c->out_start < c->out_end;
    if (c->is_streaming && c->interval_ns > 0 && !is_held)
        stream_wait(u, c, c->due_ns + c->interval_ns);
    /* One write a turn, so that all streams get on. */
    wait_for_space(u, c, is_held || (c->is_streaming && c->interval_ns == 0 && !c->is_silent));
    return true;
}

static int64_t run_paced(struct upstream *u)
{
    struct connection *c;
    int64_t now = now_ns();

    while ((c = TAILQ_FIRST(&u->paced)) && c->due_ns <= now) {
        TAILQ_REMOVE(&u->paced, c, paced);
        c->waits_for_time = false;
        if (!stream_go_on(u, c))
            connection_close(u, c);
    }
    return c ? c->due_ns - now : -1;
}

/* ---- Requests ---- */

/* What stands behind "name": in the text, or NULL. */
static const char *find_value(const char *text, size_t len, const char *name)
{
    const char *found = memmem(text, len, name, strlen(name));

    if (!found)
        return NULL;
    found += strlen(name);
    return found + strspn(found, " :");
}

static bool is_model(const char *model, const char *name)
{
    return model && strncmp(model + 1, name, strlen(name)) == 0;
}

static bool answer(struct upstream *u, struct connection *c, const char *body, size_t len)
{
    const char *stream = find_value(body, len, "\"stream\"");
    const char *model = find_value(body, len, "\"model\"");
    const char *n = find_value(body, len, "\"max_tokens\"");

    if (is_model(model, "stuck"))
        return true;
    if (!stream || strncmp(stream, "true", 4) != 0) {
        struct iovec whole = {u->unary, u->unary_bytes};
        if (!connection_send(c, &whole, 1))
            return false;
        wait_for_space(u, c, c->out_start < c->out_end);
        return true;
    }
    c->n_events = n ? (unsigned)strtoul(n, NULL, 10) : 16;
    c->n_events = c->n_events ? c->n_events : 1;
    c->is_streaming = true;
    c->head_sent = false;
    c->is_silent = is_model(model, "silent");
    c->interval_ns = is_model(model, "paced-")  ? strtol(model + 7, NULL, 10) * 1000
                     : is_model(model, "paced") ? u->interval_ns
                                                : 0;
    if (c->interval_ns > 0) {
        stream_wait(u, c, now_ns() + rand_r(&u->seed) % c->interval_ns);
        return true;
    }
    return stream_go_on(u, c);
}

/* 1: answered; 0: more is needed, or the last answer is not out; -1: close. */
static int take_request(struct upstream *u, struct connection *c)
{
    c->request[c->n_request] = '\0';
    const char *end = memmem(c->request, c->n_request, "\r\n\r\n", 4);
    const char *length = end ? strcasestr(c->request, "\r\ncontent-length:") : NULL;

    if (c->is_streaming || c->out_start < c->out_end || !end)
        return 0;
    size_t n_head = (size_t)(end - c->request) + 4;
    size_t n_body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (n_body > REQUEST_BYTES - 1 - n_head)
        return -1;
    if (c->n_request < n_head + n_body)
        return 0;
    bool ok = answer(u, c, c->request + n_head, n_body);
    c->n_request -= n_head + n_body;
    memmove(c->request, c->request + n_head + n_body, c->n_request);
    return ok ? 1 : -1;
}

static bool connection_read(struct upstream *u, struct connection *c)
{
    ssize_t n = read(c->fd, c->request + c->n_request, REQUEST_BYTES - 1 - c->n_request);
    int r;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    c->n_request += (size_t)n;
    while ((r = take_request(u, c)) > 0)
        ;
    return n > 0 && r == 0;
}

static void run_connection(struct upstream *u, struct connection *c, uint32_t events)
{
    bool ok = !(events & (EPOLLERR | EPOLLHUP));

    if (ok && events & EPOLLOUT)
        ok = stream_go_on(u, c);
    if (ok && events & EPOLLIN)
        ok = connection_read(u, c);
    if (!ok)
        connection_close(u, c);
}

static _Noreturn void run(struct upstream *u)
{
    struct epoll_event events[TURN_EVENTS];

    for (;;) {
        int64_t wait_ns = run_paced(u);
        struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};
        int n = epoll_pwait2(u->epoll, events, TURN_EVENTS, wait_ns < 0 ? NULL : &wait, NULL);

        if (n < 0 && errno != EINTR)
            fail("epoll_pwait2");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                run_connection(u, events[i].data.ptr, events[i].events);
            else
                connection_accept(u);
        }
    }
}

/* ---- Start ---- */

static void listen_tcp(struct upstream *u, int ready_fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;

    u->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (u->listener < 0 || bind(u->listener, (struct sockaddr *)&address, len) < 0 ||
        listen(u->listener, 1024) < 0 ||
        getsockname(u->listener, (struct sockaddr *)&address, &len) < 0)
        fail("127.0.0.1");
    dprintf(ready_fd, "%u\n", ntohs(address.sin_port));
}

static void listen_unix(struct upstream *u, const char *path, int ready_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        fail(path);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    u->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (u->listener < 0 || bind(u->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(u->listener, 1024) < 0)
        fail(path);
    dprintf(ready_fd, "%s\n", path);
}

static void upstream_init(struct upstream *u)
{
    struct epoll_event event = {.events = EPOLLIN};

    for (size_t i = 0; i < EVENTS_MAX; i++)
        memcpy(u->events + i * EVENT_BYTES, EVENT, EVENT_BYTES);
    memcpy(u->stamp_event, STAMP_EVENT, sizeof STAMP_EVENT);
    u->unary_bytes = (size_t)snprintf(u->unary, sizeof u->unary,
                                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                      "Content-Length: %zu\r\n\r\n%s",
                                      sizeof BODY - 1, BODY);
    TAILQ_INIT(&u->paced);
    u->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (u->epoll < 0 || epoll_ctl(u->epoll, EPOLL_CTL_ADD, u->listener, &event) < 0)
        fail("epoll");
}

int main(int argc, char **argv)
{
    static struct upstream u = {.interval_ns = 20000000, .events_per_write = 32, .seed = 1};
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'},
        {"ready-fd", required_argument, NULL, 'r'},
        {"interval-us", required_argument, NULL, 'i'},
        {"events-per-write", required_argument, NULL, 'e'},
        {0},
    };
    const char *path = NULL;
    int ready_fd = STDOUT_FILENO;

    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'l')
            path = optarg;
        else if (o == 'r')
            ready_fd = atoi(optarg);
        else if (o == 'i')
            u.interval_ns = atol(optarg) * 1000L;
        else if (o == 'e')
            u.events_per_write = (unsigned)atoi(optarg);
        else
            return EXIT_FAILURE;
    }
    if (u.interval_ns < 1 || u.events_per_write < 1 || u.events_per_write > EVENTS_MAX) {
        fprintf(stderr,
                "bench_upstream: --interval-us takes 1 or more, --events-per-write 1 to "
                "%d\n",
                EVENTS_MAX);
        return EXIT_FAILURE;
    }
    if (path)
        listen_unix(&u, path, ready_fd);
    else
        listen_tcp(&u, ready_fd);
    if (ready_fd != STDOUT_FILENO)
        close(ready_fd);
    upstream_init(&u);
    run(&u);
}
