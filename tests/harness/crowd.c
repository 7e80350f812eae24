#include "crowd.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness.h"
#include "rpc.h"

enum {
    CALLERS_MAX = 256,
    CALLS_MAX = 16,
    OVER_MAX = 1 << 20, /* how many ended calls are remembered */
    CHUNKS_MAX = 8,
    SLEEP_MAX_MS = 300,
    CANCEL_MAX_MS = 60,
    TIMEOUT_MAX_MS = 400,
};

struct crowd_call {
    struct grpc_client_call *grpc; /* NULL: free */
    uint64_t number;
    int64_t started_ms, cancel_ms; /* cancel_ms 0: never */
    bool whole;                    /* a finish_reason has come */
};

struct caller {
    int fd; /* -1: not connected */
    struct grpc_client_session *session;
    int64_t awake_ms; /* reads nothing before */
    bool leaves;      /* closes without a word at the end of the turn */
    struct crowd_call calls[CALLS_MAX];
};

struct crowd {
    struct crowd_options options;
    struct crowd_counts counts;
    struct caller callers[CALLERS_MAX];
    uint32_t chance;
    bool settling;
    _Atomic int64_t *over_ms; /* when a call ended, at its number modulo OVER_MAX; 0: it runs */
};

/* ---- Life ---- */

struct crowd *crowd_new(const struct crowd_options *options)
{
    struct crowd *c = calloc(1, sizeof *c);

    assert_non_null(c);
    assert_true(options->n_callers <= CALLERS_MAX && options->n_calls <= CALLS_MAX);
    c->over_ms = calloc(OVER_MAX, sizeof *c->over_ms);
    assert_non_null(c->over_ms);
    c->options = *options;
    c->chance = options->seed ? options->seed : 1;
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        c->callers[i].fd = -1;
    return c;
}

/* Xorshift: the same seed makes the same crowd. */
static uint32_t chance(struct crowd *c, uint32_t below)
{
    c->chance ^= c->chance << 13;
    c->chance ^= c->chance >> 17;
    c->chance ^= c->chance << 5;
    return c->chance % below;
}

const struct crowd_counts *crowd_counts(const struct crowd *c)
{
    return &c->counts;
}

unsigned crowd_n_running(const struct crowd *c)
{
    return (unsigned)(c->counts.n_started - c->counts.n_ended);
}

int64_t crowd_over_for_ms(const struct crowd *c, uint64_t number)
{
    int64_t over = atomic_load(&c->over_ms[number % OVER_MAX]);

    return over ? harness_now_ms() - over : 0;
}

/* ---- Calls ---- */

static void end_call(struct crowd *c, struct caller *caller, struct crowd_call *call)
{
    struct crowd_counts *n = &c->counts;
    enum grpc_status status = grpc_client_call_status(call->grpc);
    int64_t now = harness_now_ms();

    n->n_ended++;
    n->by_status[status]++;
    n->n_torn += status == GRPC_OK && !call->whole;
    n->n_unprocessed += status != GRPC_OK && grpc_client_call_was_unprocessed(call->grpc);
    if (now - call->started_ms > n->longest_ms)
        n->longest_ms = now - call->started_ms;
    atomic_store(&c->over_ms[call->number % OVER_MAX], now);
    call->grpc = grpc_client_call_free(call->grpc);
    if (chance(c, 100) < c->options.leaving)
        caller->leaves = true;
    if (chance(c, 100) < c->options.sleeping)
        caller->awake_ms = now + 1 + chance(c, SLEEP_MAX_MS);
}

static void take_message(struct crowd_call *call, const uint8_t *message, size_t len)
{
    Completion__V1__Completion *m = completion__v1__completion__unpack(NULL, len, message);

    /* What can't be read never makes a call whole. */
    call->whole = m && m->n_choices == 1 && m->choices[0]->has_finish_reason;
    if (m)
        completion__v1__completion__free_unpacked(m, NULL);
}

static void move_call(struct crowd *c, struct caller *caller, struct crowd_call *call)
{
    const uint8_t *message;
    size_t len;
    int r;

    while ((r = grpc_client_call_next(call->grpc, &message, &len)) > 0)
        take_message(call, message, len);
    if (call->cancel_ms && harness_now_ms() >= call->cancel_ms)
        grpc_client_call_cancel(call->grpc, GRPC_CANCELLED, "the crowd changed its mind");
    if (grpc_client_call_is_ended(call->grpc))
        end_call(c, caller, call);
}

static bool start_call(struct crowd *c, struct caller *caller, struct crowd_call *call)
{
    uint64_t number = c->counts.n_started + 1;
    char prompt[32];
    uint8_t packed[256];
    struct grpc_client_start start = {.timeout_us = -1};

    snprintf(prompt, sizeof prompt, "call %llu", (unsigned long long)number);
    rpc_request request = rpc_request_new(c->options.model, prompt);
    request.has_max_tokens = true;
    request.max_tokens = 1 + (int32_t)chance(c, CHUNKS_MAX);
    size_t len = completion__v1__create_completion_request__pack(&request, packed);

    start.path = chance(c, 100) < c->options.streamed ? RPC_CREATE_STREAM : RPC_CREATE;
    if (chance(c, 100) < c->options.timed)
        start.timeout_us = 1000 * (int64_t)(1 + chance(c, TIMEOUT_MAX_MS));
    *call = (struct crowd_call){.number = number, .started_ms = harness_now_ms()};
    if (chance(c, 100) < c->options.cancelled)
        call->cancel_ms = call->started_ms + chance(c, CANCEL_MAX_MS);
    atomic_store(&c->over_ms[number % OVER_MAX], 0);
    if (grpc_client_call_new(caller->session, &start, packed, len, &call->grpc) < 0) {
        call->grpc = NULL;
        return false;
    }
    c->counts.n_started++;
    return true;
}

/* ---- Callers ---- */

static bool has_calls(const struct caller *caller)
{
    for (unsigned i = 0; i < CALLS_MAX; i++)
        if (caller->calls[i].grpc)
            return true;
    return false;
}

/* Whatever still runs on it ends with UNAVAILABLE. */
static void disconnect(struct crowd *c, struct caller *caller, const char *why)
{
    if (caller->fd < 0)
        return;
    grpc_client_session_closed(caller->session, why);
    for (unsigned i = 0; i < CALLS_MAX; i++)
        if (caller->calls[i].grpc)
            move_call(c, caller, &caller->calls[i]);
    caller->session = grpc_client_session_free(caller->session);
    close(caller->fd);
    caller->fd = -1;
    caller->leaves = false;
}

static void leave(struct crowd *c, struct caller *caller)
{
    uint64_t n_ended = c->counts.n_ended;

    disconnect(c, caller, "the caller went away");
    c->counts.n_abandoned += c->counts.n_ended - n_ended;
}

static void connect_caller(struct crowd *c, struct caller *caller)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", c->options.socket);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        /* EAGAIN: many wait already; it comes again. */
        c->counts.n_refused += errno != EAGAIN;
        close(fd);
        return;
    }
    if (grpc_client_session_new(&grpc_client_options_default, &caller->session) < 0) {
        close(fd);
        return;
    }
    caller->fd = fd;
    caller->awake_ms = 0;
    c->counts.n_connected++;
}

/* False: there is nothing to read now, or the caller is not connected any more. */
static bool read_in(struct crowd *c, struct caller *caller)
{
    uint8_t data[16384];
    ssize_t n = recv(caller->fd, data, sizeof data, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0)
        disconnect(c, caller, "the connection was closed");
    else if (grpc_client_session_receive(caller->session, data, (size_t)n) < 0)
        disconnect(c, caller, "the daemon's bytes make no sense");
    return caller->fd >= 0;
}

static void write_out(struct crowd *c, struct caller *caller)
{
    struct buffer *out = grpc_client_session_output(caller->session);

    grpc_client_session_flush(caller->session);
    if (buffer_length(out) == 0)
        return;
    ssize_t n =
        send(caller->fd, buffer_bytes(out), buffer_length(out), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0)
        buffer_consume(out, (size_t)n);
    /* The daemon has closed; what it said before that still counts. */
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        while (read_in(c, caller))
            ;
}

/* Before waiting: new calls, and what is to be written. */
static void prepare(struct crowd *c, struct caller *caller)
{
    if (caller->fd >= 0 &&
        (caller->leaves || (!grpc_client_session_is_open(caller->session) && !has_calls(caller))))
        leave(c, caller);
    if (caller->fd < 0 && !c->settling)
        connect_caller(c, caller);
    if (caller->fd < 0)
        return;
    if (!c->settling && grpc_client_session_is_open(caller->session))
        for (unsigned i = 0; i < c->options.n_calls; i++)
            if (!caller->calls[i].grpc && !start_call(c, caller, &caller->calls[i]))
                break;
    write_out(c, caller);
}

static void look_at_calls(struct crowd *c, struct caller *caller)
{
    for (unsigned i = 0; caller->fd >= 0 && i < CALLS_MAX; i++)
        if (caller->calls[i].grpc)
            move_call(c, caller, &caller->calls[i]);
    if (caller->fd >= 0)
        write_out(c, caller);
}

void crowd_turn(struct crowd *c, int timeout_ms)
{
    struct pollfd fds[CALLERS_MAX];
    unsigned n = c->options.n_callers;
    int64_t now = harness_now_ms();

    for (unsigned i = 0; i < n; i++) {
        struct caller *caller = &c->callers[i];
        bool awake = caller->awake_ms <= now;
        if (awake)
            prepare(c, caller);
        fds[i] = (struct pollfd){.fd = awake ? caller->fd : -1, .events = POLLIN};
        if (caller->fd >= 0 && buffer_length(grpc_client_session_output(caller->session)) > 0)
            fds[i].events |= POLLOUT;
    }
    poll(fds, n, timeout_ms);
    for (unsigned i = 0; i < n; i++) {
        if (fds[i].fd >= 0 && fds[i].revents & ~POLLOUT)
            read_in(c, &c->callers[i]);
        look_at_calls(c, &c->callers[i]);
    }
}

bool crowd_run(struct crowd *c, uint64_t n_more)
{
    uint64_t until = c->counts.n_ended + n_more;
    int64_t late = harness_now_ms() + HARNESS_TIMEOUT_MS;

    while (c->counts.n_ended < until && harness_now_ms() < late)
        crowd_turn(c, 10);
    return c->counts.n_ended >= until;
}

void crowd_run_for(struct crowd *c, int ms)
{
    for (int64_t until = harness_now_ms() + ms; harness_now_ms() < until;)
        crowd_turn(c, 1);
}

bool crowd_settle(struct crowd *c)
{
    int64_t late = harness_now_ms() + HARNESS_TIMEOUT_MS;

    c->settling = true;
    while (crowd_n_running(c) > 0 && harness_now_ms() < late)
        crowd_turn(c, 10);
    c->settling = false;
    bool settled = crowd_n_running(c) == 0;
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        disconnect(c, &c->callers[i], "the crowd went home");
    return settled;
}

struct crowd *crowd_free(struct crowd *c)
{
    if (!c)
        return NULL;
    for (unsigned i = 0; i < CALLERS_MAX; i++)
        disconnect(c, &c->callers[i], "the crowd went home");
    free(c->over_ms);
    free(c);
    return NULL;
}

/* ---- An upstream ---- */

uint64_t crowd_number(const char *body)
{
    const char *p = strstr(body, "\"prompt\":\"call ");

    return p ? strtoull(p + 15, NULL, 10) : 0;
}

bool crowd_answer(struct fake_connection *c)
{
    const char *wanted = strstr(c->body, "\"max_tokens\":");
    long n = wanted ? strtol(wanted + 13, NULL, 10) : 1;

    if (!strstr(c->body, "\"stream\":true"))
        return fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"));
    if (!fake_stream_begin(c))
        return false;
    for (long i = 1; i < n; i++)
        if (!fake_event(c, FAKE_PART("part ")))
            return false;
    return fake_event(c, FAKE_LAST("end")) && fake_stream_done(c);
}

void crowd_serve(struct fake_connection *c)
{
    while (fake_read_request(c) && crowd_answer(c))
        ;
}
