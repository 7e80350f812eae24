#include "fake.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

enum { REQUEST_MAX_BYTES = 64 << 20 };

struct session {
    LIST_ENTRY(session) next;
    struct fake_connection c;
    pthread_t thread;
    bool ended; /* the thread touches nothing any more */
};

struct fake {
    int fd;
    char base_url[160];
    fake_handler handler;
    const void *user;
    pthread_t accepter;

    pthread_mutex_t lock; /* over all that follows, and the sessions' descriptors */
    pthread_cond_t changed;
    LIST_HEAD(, session) sessions;
    unsigned counts[FAKE_N_MARKS];
    int64_t closed_at_ms;
    char *last_head, *last_body;
    bool stopping;
};

/* ---- Marks ---- */

void fake_mark(struct fake *f, enum fake_mark mark)
{
    pthread_mutex_lock(&f->lock);
    f->counts[mark]++;
    if (mark == FAKE_CLOSED)
        f->closed_at_ms = harness_now_ms();
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

unsigned fake_count(struct fake *f, enum fake_mark mark)
{
    pthread_mutex_lock(&f->lock);
    unsigned n = f->counts[mark];
    pthread_mutex_unlock(&f->lock);
    return n;
}

bool fake_await(struct fake *f, enum fake_mark mark, unsigned n)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += HARNESS_TIMEOUT_MS / 1000;
    pthread_mutex_lock(&f->lock);
    while (f->counts[mark] < n && !f->stopping && r == 0)
        r = pthread_cond_timedwait(&f->changed, &f->lock, &until);
    bool reached = f->counts[mark] >= n;
    pthread_mutex_unlock(&f->lock);
    return reached;
}

int64_t fake_closed_at_ms(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    int64_t at = f->closed_at_ms;
    pthread_mutex_unlock(&f->lock);
    return at;
}

static char *copy_last(struct fake *f, char *const *text)
{
    pthread_mutex_lock(&f->lock);
    char *copy = strdup(*text ? *text : "");
    pthread_mutex_unlock(&f->lock);
    assert_non_null(copy);
    return copy;
}

char *fake_last_head(struct fake *f)
{
    return copy_last(f, &f->last_head);
}

char *fake_last_body(struct fake *f)
{
    return copy_last(f, &f->last_body);
}

static void note_request(struct fake_connection *c)
{
    struct fake *f = c->fake;

    c->n_requests++;
    pthread_mutex_lock(&f->lock);
    free(f->last_head);
    free(f->last_body);
    f->last_head = strdup(c->head);
    f->last_body = strdup(c->body);
    pthread_mutex_unlock(&f->lock);
    fake_mark(f, FAKE_REQUESTED);
}

/* ---- Reading ---- */

static bool read_more(struct fake_connection *c)
{
    uint8_t *space = buffer_reserve(&c->in, 65536);
    ssize_t n;

    if (!space || c->fd < 0)
        return false;
    while ((n = recv(c->fd, space, 65536, 0)) < 0 && errno == EINTR)
        ;
    if (n <= 0)
        return false;
    buffer_commit(&c->in, (size_t)n);
    return true;
}

/* Moves len bytes out of what was read, as text. */
static char *take_text(struct fake_connection *c, size_t len)
{
    char *text = malloc(len + 1);

    if (!text)
        return NULL;
    if (len > 0)
        memcpy(text, buffer_bytes(&c->in), len);
    text[len] = '\0';
    buffer_consume(&c->in, len);
    return text;
}

static size_t content_length(const char *head)
{
    const char *header = strcasestr(head, "\r\ncontent-length:");

    return header ? strtoul(header + 17, NULL, 10) : 0;
}

bool fake_read_request(struct fake_connection *c)
{
    const char *end = NULL;

    free(c->head);
    free(c->body);
    c->head = c->body = NULL;
    while (buffer_length(&c->in) == 0 ||
           !(end = memmem(buffer_bytes(&c->in), buffer_length(&c->in), "\r\n\r\n", 4)))
        if (!read_more(c))
            return false;
    c->head = take_text(c, (size_t)(end - (char *)buffer_bytes(&c->in)) + 4);
    if (!c->head)
        return false;
    size_t len = content_length(c->head);
    while (buffer_length(&c->in) < len)
        if (!read_more(c))
            return false;
    c->body = take_text(c, len);
    if (!c->body)
        return false;
    note_request(c);
    return true;
}

void fake_wait_for_close(struct fake_connection *c)
{
    while (read_more(c))
        buffer_consume(&c->in, buffer_length(&c->in));
    fake_mark(c->fake, FAKE_CLOSED);
}

/* ---- Writing ---- */

size_t fake_write_some(struct fake_connection *c, const void *data, size_t len, int quiet_ms)
{
    size_t done = 0;

    while (done < len && c->fd >= 0) {
        struct pollfd fd = {c->fd, POLLOUT, 0};
        if (poll(&fd, 1, quiet_ms) <= 0)
            return done;
        ssize_t n = send(c->fd, (const char *)data + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return done;
        done += n > 0 ? (size_t)n : 0;
    }
    return done;
}

bool fake_write(struct fake_connection *c, const void *data, size_t len)
{
    return fake_write_some(c, data, len, HARNESS_TIMEOUT_MS) == len;
}

bool fake_print(struct fake_connection *c, const char *format, ...)
{
    va_list args;
    char *text;

    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        return false;
    bool written = fake_write(c, text, (size_t)n);
    free(text);
    return written;
}

bool fake_drip(struct fake_connection *c, const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!fake_write(c, (const char *)data + i, 1))
            return false;
    return true;
}

bool fake_answer(struct fake_connection *c, int status, const char *type, const char *headers,
                 const char *body)
{
    return fake_print(c,
                      "HTTP/1.1 %d Status\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s\r\n%s",
                      status, type, strlen(body), headers, body);
}

bool fake_stream_begin(struct fake_connection *c)
{
    return fake_print(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                         "Transfer-Encoding: chunked\r\nx-request-id: req-1\r\n\r\n");
}

bool fake_chunk(struct fake_connection *c, const void *data, size_t len)
{
    return fake_print(c, "%zx\r\n", len) && fake_write(c, data, len) && fake_write(c, "\r\n", 2);
}

bool fake_event(struct fake_connection *c, const char *data)
{
    return fake_print(c, "%zx\r\ndata: %s\n\n\r\n", strlen(data) + 8, data);
}

bool fake_stream_done(struct fake_connection *c)
{
    return fake_print(c, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

/* ---- Connections ---- */

void fake_shut_down(struct fake_connection *c)
{
    shutdown(c->fd, SHUT_WR);
}

static void close_connection(struct fake_connection *c)
{
    pthread_mutex_lock(&c->fake->lock);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    pthread_mutex_unlock(&c->fake->lock);
}

void fake_reset(struct fake_connection *c)
{
    struct linger linger = {1, 0};

    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close_connection(c);
}

static void *run_session(void *user)
{
    struct session *s = user;

    s->c.fake->handler(&s->c);
    close_connection(&s->c);
    pthread_mutex_lock(&s->c.fake->lock);
    s->ended = true;
    pthread_mutex_unlock(&s->c.fake->lock);
    return NULL;
}

static void session_free(struct session *s)
{
    pthread_join(s->thread, NULL);
    free(s->c.head);
    free(s->c.body);
    buffer_done(&s->c.in);
    free(s);
}

/* Else a test of many connections runs out of threads. */
static void reap_sessions(struct fake *f)
{
    struct session *s, *next;

    pthread_mutex_lock(&f->lock);
    for (s = LIST_FIRST(&f->sessions); s; s = next) {
        next = LIST_NEXT(s, next);
        if (!s->ended)
            continue;
        LIST_REMOVE(s, next);
        session_free(s);
    }
    pthread_mutex_unlock(&f->lock);
}

static void start_session(struct fake *f, int fd)
{
    struct session *s = calloc(1, sizeof *s);
    int on = 1;

    /* Each write its own segment: tests cut at bytes. Unix sockets refuse, and need it not. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (!s) {
        close(fd);
        return;
    }
    s->c = (struct fake_connection){
        .fake = f,
        .user = f->user,
        .fd = fd,
        .in = BUFFER_INIT(REQUEST_MAX_BYTES),
    };
    /* Counted before it can say a word: whoever hears one may ask for the count. */
    pthread_mutex_lock(&f->lock);
    s->c.number = ++f->counts[FAKE_ACCEPTED];
    if (f->stopping || pthread_create(&s->thread, NULL, run_session, s) != 0) {
        close(fd);
        free(s);
    } else {
        LIST_INSERT_HEAD(&f->sessions, s, next);
    }
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void *run_accepter(void *user)
{
    struct fake *f = user;
    int fd;

    while ((fd = accept4(f->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == EINTR ||
           errno == ECONNABORTED)
        if (fd >= 0) {
            reap_sessions(f);
            start_session(f, fd);
        }
    return NULL;
}

/* ---- Life ---- */

static void listen_on_unix(struct fake *f, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(f->fd, (struct sockaddr *)&address, sizeof address), 0);
    snprintf(f->base_url, sizeof f->base_url, "unix:%s:/v1", path);
}

static void listen_on_tcp(struct fake *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int bytes = 65536;

    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(f->fd, (struct sockaddr *)&address, &len), 0);
    /* So that what the kernel holds hides little of who does not read. */
    setsockopt(f->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    snprintf(f->base_url, sizeof f->base_url, "http://127.0.0.1:%u/v1", ntohs(address.sin_port));
}

struct fake *fake_new(const char *unix_path, fake_handler handler, const void *user)
{
    struct fake *f = calloc(1, sizeof *f);
    pthread_condattr_t attributes;

    assert_non_null(f);
    f->handler = handler;
    f->user = user;
    LIST_INIT(&f->sessions);
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (unix_path)
        listen_on_unix(f, unix_path);
    else
        listen_on_tcp(f);
    assert_int_equal(listen(f->fd, 1024), 0);
    assert_int_equal(pthread_create(&f->accepter, NULL, run_accepter, f), 0);
    return f;
}

const char *fake_base_url(const struct fake *f)
{
    return f->base_url;
}

struct fake *fake_free(struct fake *f)
{
    struct session *s;

    if (!f)
        return NULL;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    shutdown(f->fd, SHUT_RDWR);
    LIST_FOREACH (s, &f->sessions, next)
        if (s->c.fd >= 0)
            shutdown(s->c.fd, SHUT_RDWR);
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);

    pthread_join(f->accepter, NULL);
    close(f->fd);
    while ((s = LIST_FIRST(&f->sessions))) {
        LIST_REMOVE(s, next);
        session_free(s);
    }
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f->last_head);
    free(f->last_body);
    free(f);
    return NULL;
}
