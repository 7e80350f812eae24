#include "scrape.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../proto/buffer.h"
#include "exposition.h"
#include "worker.h"

enum {
    CONNECTIONS_MAX = 8,
    REQUEST_MAX = 8192,
    BODY_MAX_BYTES = 16 << 20,
    PATIENCE_US = 5000000, /* for a request, and again for taking the answer */
    ACCEPT_AGAIN_US = 1000000,
};

struct visitor {
    TAILQ_ENTRY(visitor) next;
    struct scrape *scrape;
    int fd;
    struct event readable, writable, timer;
    struct task release;
    char request[REQUEST_MAX];
    size_t n;
    struct buffer answer;
};

struct scrape {
    struct worker *worker;
    int fd;
    struct event acceptable, accept_again;
    TAILQ_HEAD(visitors, visitor) visitors; /* in the order of their coming */
    struct visitors leaving;                /* to be freed at the end of the turn */
    size_t n_visitors;
};

/* ---- Visitors ---- */

static void run_release(struct task *task)
{
    struct visitor *v = container_of(task, struct visitor, release);

    TAILQ_REMOVE(&v->scrape->leaving, v, next);
    buffer_done(&v->answer);
    close(v->fd);
    free(v);
}

static void visitor_leave(struct visitor *v)
{
    struct scrape *s = v->scrape;

    event_del(&v->readable);
    event_del(&v->writable);
    event_del(&v->timer);
    TAILQ_REMOVE(&s->visitors, v, next);
    TAILQ_INSERT_TAIL(&s->leaving, v, next);
    s->n_visitors--;
    worker_defer(s->worker, &v->release);
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    visitor_leave(user);
}

static void on_writable(evutil_socket_t fd, short what, void *user)
{
    struct visitor *v = user;
    ssize_t n =
        send(fd, buffer_bytes(&v->answer), buffer_length(&v->answer), MSG_DONTWAIT | MSG_NOSIGNAL);

    (void)what;
    if (n > 0)
        buffer_consume(&v->answer, (size_t)n);
    if ((n < 0 && errno != EAGAIN && errno != EINTR) || buffer_length(&v->answer) == 0 ||
        event_add(&v->writable, NULL) < 0)
        visitor_leave(v);
}

/* ---- Requests ---- */

/* The value of a header in a request that ends in NUL, "" if there is none. Up to its line's end.
 */
static const char *header_value(const char *request, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = request; (line = strchr(line, '\n')); line++)
        if (!strncasecmp(line + 1, name, len) && line[1 + len] == ':')
            return line + 1 + len + 1;
    return "";
}

static bool value_has(const char *value, const char *part)
{
    const char *found = strcasestr(value, part);

    return found && found < value + strcspn(value, "\r\n");
}

/* OpenMetrics, unless only the older format is asked for. */
static bool wants_openmetrics(const char *request)
{
    const char *accept = header_value(request, "accept");

    return value_has(accept, "openmetrics") || !value_has(accept, "text/plain");
}

static void answer_with(struct visitor *v, const char *status, const char *headers,
                        const char *type, const struct buffer *body, bool is_head)
{
    buffer_printf(&v->answer,
                  "HTTP/1.1 %s\r\n%sContent-Type: %s\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\n\r\n",
                  status, headers, type, buffer_length(body));
    if (!is_head)
        buffer_append(&v->answer, buffer_bytes(body), buffer_length(body));
}

static void refuse(struct visitor *v, const char *status, const char *headers, bool is_head)
{
    struct buffer body = BUFFER_INIT(256);

    buffer_printf(&body, "%s\n", status);
    answer_with(v, status, headers, "text/plain; charset=utf-8", &body, is_head);
    buffer_done(&body);
}

static void show(struct visitor *v, bool is_head)
{
    bool openmetrics = wants_openmetrics(v->request);
    struct buffer body = BUFFER_INIT(BODY_MAX_BYTES);

    exposition_write(v->scrape->worker, openmetrics, &body);
    if (body.error)
        refuse(v, "503 Service Unavailable", "", is_head);
    else
        answer_with(v, "200 OK", "",
                    openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                : "text/plain; version=0.0.4; charset=utf-8",
                    &body, is_head);
    buffer_done(&body);
}

/* The request's head is there, and ends in NUL. */
static void answer(struct visitor *v)
{
    char *line = v->request;
    size_t method_len = strcspn(line, " \r\n");
    const char *path = line + method_len + (line[method_len] == ' ');
    size_t path_len = strcspn(path, " ?\r\n");
    const char *version = path + strcspn(path, " \r\n");
    bool is_head = method_len == 4 && !strncmp(line, "HEAD", 4);

    if (strlen(line) != v->n || strncmp(version, " HTTP/1.", 8) != 0)
        refuse(v, "400 Bad Request", "", false);
    else if (!is_head && (method_len != 3 || strncmp(line, "GET", 3) != 0))
        refuse(v, "405 Method Not Allowed", "Allow: GET, HEAD\r\n", false);
    else if (path_len != 8 || strncmp(path, "/metrics", 8) != 0)
        refuse(v, "404 Not Found", "", is_head);
    else
        show(v, is_head);
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
    struct visitor *v = user;
    ssize_t n = recv(fd, v->request + v->n, sizeof v->request - 1 - v->n, MSG_DONTWAIT);

    (void)what;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        visitor_leave(v);
        return;
    }
    v->n += (size_t)n;
    v->request[v->n] = '\0';
    if (memmem(v->request, v->n, "\r\n\r\n", 4) || memmem(v->request, v->n, "\n\n", 2))
        answer(v);
    else if (v->n == sizeof v->request - 1)
        refuse(v, "431 Request Header Fields Too Large", "", false);
    else
        return;
    event_del(&v->readable);
    if (v->answer.error || worker_arm(&v->timer, PATIENCE_US) < 0 ||
        event_add(&v->writable, NULL) < 0)
        visitor_leave(v);
}

/* ---- Accepting ---- */

/* Takes over the descriptor. */
static void welcome(struct scrape *s, int fd)
{
    struct visitor *v = calloc(1, sizeof *v);
    struct event_base *base = s->worker->base;

    if (!v) {
        close(fd);
        return;
    }
    if (s->n_visitors == CONNECTIONS_MAX)
        visitor_leave(TAILQ_FIRST(&s->visitors));
    v->scrape = s;
    v->fd = fd;
    v->answer = BUFFER_INIT(BODY_MAX_BYTES + 1024);
    v->release.run = run_release;
    event_assign(&v->readable, base, fd, EV_READ | EV_PERSIST, on_readable, v);
    event_assign(&v->writable, base, fd, EV_WRITE, on_writable, v);
    evtimer_assign(&v->timer, base, on_timer, v);
    TAILQ_INSERT_TAIL(&s->visitors, v, next);
    s->n_visitors++;
    if (event_add(&v->readable, NULL) < 0 || worker_arm(&v->timer, PATIENCE_US) < 0)
        visitor_leave(v);
}

static void on_acceptable(evutil_socket_t fd, short what, void *user)
{
    struct scrape *s = user;
    int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)what;
    if (client >= 0) {
        welcome(s, client);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        /* No descriptor: it would be asked again at once. */
        event_del(&s->acceptable);
        worker_arm(&s->accept_again, ACCEPT_AGAIN_US);
    }
}

static void on_accept_again(evutil_socket_t fd, short what, void *user)
{
    struct scrape *s = user;

    (void)fd, (void)what;
    if (event_add(&s->acceptable, NULL) < 0)
        worker_arm(&s->accept_again, ACCEPT_AGAIN_US);
}

int scrape_new(struct worker *worker, int fd, struct scrape **ret)
{
    struct scrape *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->worker = worker;
    s->fd = fd;
    TAILQ_INIT(&s->visitors);
    TAILQ_INIT(&s->leaving);
    evutil_make_socket_nonblocking(fd);
    event_assign(&s->acceptable, worker->base, fd, EV_READ | EV_PERSIST, on_acceptable, s);
    evtimer_assign(&s->accept_again, worker->base, on_accept_again, s);
    if (event_add(&s->acceptable, NULL) < 0) {
        free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

struct scrape *scrape_free(struct scrape *s)
{
    struct visitor *v;

    if (!s)
        return NULL;
    event_del(&s->acceptable);
    event_del(&s->accept_again);
    while ((v = TAILQ_FIRST(&s->visitors)))
        visitor_leave(v);
    while ((v = TAILQ_FIRST(&s->leaving))) {
        worker_cancel(s->worker, &v->release);
        run_release(&v->release);
    }
    close(s->fd);
    free(s);
    return NULL;
}
