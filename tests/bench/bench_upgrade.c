/*
 * Callers of a daemon that is upgraded under them: connections that keep calls in flight and come
 * back when the daemon says that it goes away, or, with --renew, newcomers that connect, make one
 * call and go. Until SIGTERM; then one line: how many, what must be nothing (refused connects, and
 * calls that were cut), and how long the longest call took, a newcomer's from its connect() on.
 *
 * SIGUSR1 says that an upgrade begins, and the next one that it is over: the longest of each such
 * time counts by itself, so that what else the machine does can be told apart.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "completion/v1/completion.pb-c.h"
#include "grpc_client.h"
#include "load.h"

enum { CONNECTIONS_MAX = 64, IN_FLIGHT_MAX = 100, SPANS_MAX = 1000 };

enum span { BETWEEN, UPGRADE, N_SPANS };

struct call {
    struct grpc_client_call *grpc; /* NULL: free */
    int64_t start_ns;
    unsigned n_chunks;
    bool is_finished;
};

struct caller {
    int fd; /* -1: not connected */
    int64_t connect_ns;
    bool is_used; /* a newcomer has made its call */
    struct grpc_client_session *session;
    struct call calls[IN_FLIGHT_MAX];
};

struct bench {
    const char *target, *model;
    unsigned n_connections, in_flight, n_chunks;
    bool renew, stopping;
    struct caller callers[CONNECTIONS_MAX];
    uint8_t request[512];
    size_t request_len;
    uint64_t n_calls, n_refused, n_cut, n_again; /* again: provably not begun */
    enum span span;
    int64_t longest_ns; /* of this span */
    int64_t longest_of_ns[N_SPANS][SPANS_MAX];
    unsigned n_spans[N_SPANS];
};

static volatile sig_atomic_t is_told_to_stop, is_told_of_upgrade;

static void on_signal(int number)
{
    if (number == SIGTERM)
        is_told_to_stop = 1;
    else
        is_told_of_upgrade = 1;
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- Spans ---- */

static void end_span(struct bench *b)
{
    if (b->n_spans[b->span] < SPANS_MAX)
        b->longest_of_ns[b->span][b->n_spans[b->span]++] = b->longest_ns;
    b->span = b->span == UPGRADE ? BETWEEN : UPGRADE;
    b->longest_ns = 0;
    is_told_of_upgrade = 0;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void print_span(struct bench *b, const char *name, enum span span)
{
    unsigned n = b->n_spans[span];
    int64_t *list = b->longest_of_ns[span];

    qsort(list, n, sizeof *list, compare);
    printf(" %s_ms=%.1f/%.1f", name, n ? (double)list[n / 2] / 1e6 : 0,
           n ? (double)list[n - 1] / 1e6 : 0);
}

/* ---- Calls ---- */

static void pack_request(struct bench *b)
{
    static char prompt[] = "Say this is a test.";
    Completion__V1__CreateCompletionRequest request;

    completion__v1__create_completion_request__init(&request);
    request.has_model = true;
    request.model = (ProtobufCBinaryData){strlen(b->model), (uint8_t *)b->model};
    request.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    request.prompt_string = (ProtobufCBinaryData){sizeof prompt - 1, (uint8_t *)prompt};
    request.has_max_tokens = true;
    request.max_tokens = b->n_chunks ? (int32_t)b->n_chunks : 7;
    if (completion__v1__create_completion_request__get_packed_size(&request) > sizeof b->request)
        load_fail("the name of the model is too long");
    b->request_len = completion__v1__create_completion_request__pack(&request, b->request);
}

static void start_call(struct bench *b, struct caller *p, struct call *c)
{
    struct grpc_client_start start = {
        .path = b->n_chunks ? "/completion.v1.Completions/CreateStream"
                            : "/completion.v1.Completions/Create",
        .timeout_us = -1,
    };

    *c = (struct call){.start_ns = b->renew ? p->connect_ns : now_ns()};
    if (grpc_client_call_new(p->session, &start, b->request, b->request_len, &c->grpc) < 0)
        c->grpc = NULL;
    p->is_used = true;
}

static void read_message(struct call *c, const uint8_t *message, size_t len)
{
    Completion__V1__Completion *m = completion__v1__completion__unpack(NULL, len, message);

    if (!m || m->n_choices != 1)
        load_fail("not a completion of %zu bytes", len);
    c->n_chunks++;
    c->is_finished = m->choices[0]->has_finish_reason;
    completion__v1__completion__free_unpacked(m, NULL);
}

static void end_call(struct bench *b, struct call *c)
{
    int64_t took_ns = now_ns() - c->start_ns;
    bool is_ok = grpc_client_call_status(c->grpc) == GRPC_OK;

    if (is_ok && c->is_finished && c->n_chunks == (b->n_chunks ? b->n_chunks : 1)) {
        b->n_calls++;
        b->longest_ns = took_ns > b->longest_ns ? took_ns : b->longest_ns;
    } else if (!is_ok && grpc_client_call_was_unprocessed(c->grpc)) {
        b->n_again++;
    } else {
        fprintf(stderr, "cut: %s: %s\n", grpc_status_name(grpc_client_call_status(c->grpc)),
                grpc_client_call_message(c->grpc));
        b->n_cut++;
    }
    c->grpc = grpc_client_call_free(c->grpc);
}

static void read_calls(struct bench *b, struct caller *p)
{
    const uint8_t *message;
    size_t len;

    for (unsigned i = 0; i < b->in_flight; i++) {
        struct call *c = &p->calls[i];
        while (c->grpc && grpc_client_call_next(c->grpc, &message, &len) > 0)
            read_message(c, message, len);
        if (c->grpc && grpc_client_call_is_ended(c->grpc))
            end_call(b, c);
    }
}

static bool has_calls(const struct bench *b, const struct caller *p)
{
    for (unsigned i = 0; i < b->in_flight; i++)
        if (p->calls[i].grpc)
            return true;
    return false;
}

/* ---- Connections ---- */

static void caller_connect(struct bench *b, struct caller *p)
{
    struct grpc_client_options options = grpc_client_options_default;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof address.sun_path, "%s", b->target);
    p->connect_ns = now_ns();
    p->is_used = false;
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0)
        load_fail("socket: %s", strerror(errno));
    if (connect(p->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fprintf(stderr, "refused: %s\n", strerror(errno));
        b->n_refused++;
        close(p->fd);
        p->fd = -1;
    } else if (grpc_client_session_new(&options, &p->session) < 0) {
        load_fail("out of memory");
    }
}

static void caller_close(struct bench *b, struct caller *p)
{
    grpc_client_session_closed(p->session, "closed by the daemon");
    read_calls(b, p);
    p->session = grpc_client_session_free(p->session);
    close(p->fd);
    p->fd = -1;
}

static void caller_write(struct caller *p)
{
    struct buffer *output = grpc_client_session_output(p->session);
    ssize_t n = 0;

    do {
        buffer_consume(output, (size_t)n);
        grpc_client_session_flush(p->session);
        n = send(p->fd, buffer_bytes(output), buffer_length(output), MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n > 0);
}

static void caller_read(struct bench *b, struct caller *p)
{
    uint8_t data[65536];
    ssize_t n = recv(p->fd, data, sizeof data, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || grpc_client_session_receive(p->session, data, (size_t)n) < 0)
        caller_close(b, p);
    else
        read_calls(b, p);
}

/* What is to begin: a connection, calls on it. */
static void caller_begin(struct bench *b, struct caller *p)
{
    if (p->fd >= 0 && !has_calls(b, p) &&
        (b->stopping || !grpc_client_session_is_open(p->session) || (b->renew && p->is_used)))
        caller_close(b, p);
    if (p->fd < 0 && !b->stopping)
        caller_connect(b, p);
    if (p->fd < 0)
        return;
    for (unsigned i = 0; i < b->in_flight; i++)
        if (!b->stopping && !p->calls[i].grpc && grpc_client_session_is_open(p->session) &&
            !(b->renew && p->is_used))
            start_call(b, p, &p->calls[i]);
    caller_write(p);
}

/* False: all have gone. */
static bool turn(struct bench *b)
{
    struct pollfd fds[CONNECTIONS_MAX];
    bool any = false;

    b->stopping = is_told_to_stop;
    if (is_told_of_upgrade)
        end_span(b);
    for (unsigned i = 0; i < b->n_connections; i++) {
        struct caller *p = &b->callers[i];
        caller_begin(b, p);
        fds[i] = (struct pollfd){p->fd, POLLIN, 0};
        if (p->fd >= 0 && buffer_length(grpc_client_session_output(p->session)) > 0)
            fds[i].events |= POLLOUT;
        any = any || p->fd >= 0;
    }
    if (any && poll(fds, b->n_connections, 1000) > 0)
        for (unsigned i = 0; i < b->n_connections; i++)
            if (fds[i].revents & ~POLLOUT)
                caller_read(b, &b->callers[i]);
    return any || !b->stopping;
}

/* ---- Options ---- */

static void parse_options(struct bench *b, int argc, char **argv)
{
    static const struct option options[] = {
        {"target", required_argument, NULL, 't'},
        {"model", required_argument, NULL, 'm'},
        {"connections", required_argument, NULL, 'c'},
        {"in-flight", required_argument, NULL, 'i'},
        {"chunks", required_argument, NULL, 'n'},
        {"renew", no_argument, NULL, 'r'},
        {0},
    };

    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        unsigned number =
            o == 'c' || o == 'i' || o == 'n' ? (unsigned)strtoul(optarg, NULL, 10) : 0;
        switch (o) {
        case 't':
            b->target = optarg;
            break;
        case 'm':
            b->model = optarg;
            break;
        case 'c':
            b->n_connections = number;
            break;
        case 'i':
            b->in_flight = number;
            break;
        case 'n':
            b->n_chunks = number;
            break;
        case 'r':
            b->renew = true;
            break;
        default:
            exit(EXIT_FAILURE);
        }
    }
    if (!b->target || optind < argc || b->n_connections > CONNECTIONS_MAX ||
        b->in_flight > IN_FLIGHT_MAX)
        load_fail("usage: --target SOCKET [--connections N] [--in-flight N] [--chunks N] "
                  "[--model NAME] [--renew]");
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    static struct bench b = {.model = "bench", .n_connections = 1, .in_flight = 1};

    parse_options(&b, argc, argv);
    pack_request(&b);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        b.callers[i].fd = -1;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    int64_t start_ns = now_ns();
    while (turn(&b))
        ;
    double seconds = (double)(now_ns() - start_ns) / 1e9;
    end_span(&b);
    printf("calls=%llu per_s=%.0f", (unsigned long long)b.n_calls, (double)b.n_calls / seconds);
    print_span(&b, "upgrades", UPGRADE);
    print_span(&b, "between", BETWEEN);
    printf(" again=%llu refused=%llu cut=%llu\n", (unsigned long long)b.n_again,
           (unsigned long long)b.n_refused, (unsigned long long)b.n_cut);
    return b.n_refused || b.n_cut;
}
