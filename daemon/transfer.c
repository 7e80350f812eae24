/*
 * One HTTP exchange: its timers, its pauses, its end. A transfer is freed at the end of a turn,
 * never inside libcurl.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "config.h"
#include "curl_memory.h"
#include "multi.h"
#include "upstream_internal.h"
#include "worker.h"

/* How long, and how many line ends, a finished stream gets to come to the end of its response. */
enum { FINISH_US = 250000, FINISH_BYTES = 64, LOOK_AGAIN_US = 20000 };

/* libcurl's own limit holds for one response; this one, for all that come before the last, too. */
enum { HEAD_MAX_BYTES = 256 << 10, FOLD_BYTES = 4 << 10 };

enum { DAY_S = 86400 };

/* libcurl allocates it for each transfer, and curl_memory.c wipes all of it. */
enum { READ_BYTES = 16 << 10, READ_LITTLE_BYTES = 4 << 10 };

#define ID_HEADER "X-Client-Request-Id: "

enum transfer_state {
    TRANSFER_RUNNING,
    TRANSFER_FINISHING, /* the caller is done with it; the response is not */
    TRANSFER_ENDED,     /* nothing but to be freed */
};

struct transfer {
    LIST_ENTRY(transfer) next; /* while FINISHING: among the worker's */
    struct upstream *upstream; /* a reference */
    struct endpoint *endpoint; /* of the upstream's */
    struct multi *multi;       /* a reference */
    CURL *easy;
    struct curl_slist *headers; /* own ones, NULL: the upstream's */
    struct curl_slist id_node;  /* in front of them, and like them not libcurl's to free */
    char id_header[sizeof ID_HEADER + UPSTREAM_CALL_ID_MAX];
    struct upstream_body *body; /* a reference */
    const struct transfer_handler *handler;
    void *user;
    struct multi_user multi_user;
    struct lookup_user lookup;
    enum lookup_answer lookup_answer;
    struct event timer;
    struct task release, resume, announce;
    enum transfer_state state;
    bool in_multi, pause, is_paused, head_seen, body_seen;
    bool is_overdue;    /* the timer has fired, and looks once more */
    bool is_announcing; /* what is kept is taken although it is to be paused */
    bool not_resent, is_misled;
    unsigned n_sent;
    long n_connects;         /* as of the last time that it was sent */
    unsigned long n_refused; /* curl_memory_n_refused() at its beginning */
    size_t n_discarded, n_head_bytes;
    int64_t start_us, last_byte_us;
};

static int transfer_arm(struct transfer *t);

static void transfer_free(struct transfer *t)
{
    worker_cancel(t->upstream->worker, &t->resume);
    worker_cancel(t->upstream->worker, &t->announce);
    evtimer_del(&t->timer);
    if (t->in_multi)
        multi_remove(t->multi, &t->multi_user);
    if (t->easy) {
        curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, NULL);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, NULL);
        endpoint_give_easy(t->endpoint, t->easy);
    }
    upstream_headers_free(t->headers);
    upstream_body_unref(t->body);
    multi_unref(t->multi);
    upstream_unref(t->upstream);
    free(t);
}

static void run_release(struct task *task)
{
    transfer_free(container_of(task, struct transfer, release));
}

static void transfer_end(struct transfer *t)
{
    if (t->state == TRANSFER_RUNNING)
        t->endpoint->load->n_running--;
    if (t->state == TRANSFER_FINISHING)
        LIST_REMOVE(t, next);
    t->state = TRANSFER_ENDED;
    t->handler = NULL;
    evtimer_del(&t->timer);
    lookup_leave(&t->endpoint->lookup, &t->lookup);
    worker_defer(t->upstream->worker, &t->release);
}

/* May be done again after its end. Each time the multi handle is the one that is good then. */
static int transfer_begin(struct transfer *t)
{
    struct multi *multi = multi_get(t->upstream->worker);

    if (!multi)
        return -ENOMEM;
    multi_unref(t->multi);
    t->multi = multi;
    t->in_multi = multi_add(multi, t->easy, &t->multi_user) == 0;
    return t->in_multi ? 0 : -ENOMEM;
}

/* ---- The name ---- */

/* libcurl wants to look it up. */
static int on_lookup(void *resolver, void *reserved, void *user)
{
    struct transfer *t = user;

    (void)resolver, (void)reserved;
    t->lookup_answer = lookup_begin(&t->endpoint->lookup, &t->lookup);
    return t->lookup_answer != LOOKUP_GO;
}

/* Who has written an address into the configuration means it. */
static bool on_connects(struct multi_user *multi_user, const struct sockaddr *address)
{
    struct transfer *t = container_of(multi_user, struct transfer, multi_user);

    lookup_found(&t->endpoint->lookup, &t->lookup);
    t->is_misled = !t->endpoint->is_numeric && !lookup_may_lead_to(address);
    return !t->is_misled;
}

/* ---- What came ---- */

static void copy_header(CURL *easy, const char *name, char *out, size_t size)
{
    struct curl_header *header;

    if (*out || curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return;
    size_t n = 0;
    for (const char *c = header->value; *c && n + 1 < size; c++)
        out[n++] = (char)(*c >= ' ' && *c <= '~' ? *c : '?');
    out[n] = '\0';
}

/* Seconds or a date. What does not fit counts as not said. A date is as good as the two clocks:
 * nobody is told to wait for years because one of them is wrong. */
static int64_t retry_after_ms(CURL *easy)
{
    char text[64] = "", *end;

    copy_header(easy, "retry-after-ms", text, sizeof text);
    double number = strtod(text, &end);
    if (end > text && !*end && number >= 0 && number < 1e12)
        return (int64_t)number;

    text[0] = '\0';
    copy_header(easy, "retry-after", text, sizeof text);
    number = strtod(text, &end);
    if (end > text && !*end)
        return number >= 0 && number < 1e9 ? (int64_t)(number * 1000) : -1;
    time_t date = *text ? curl_getdate(text, NULL) : -1;
    time_t now = time(NULL);
    if (date < 0)
        return -1;
    return date <= now          ? 0
           : date - now < DAY_S ? (int64_t)(date - now) * 1000
                                : DAY_S * INT64_C(1000);
}

static void report_head(struct transfer *t)
{
    static const char *const ids[] = {"x-request-id", "apim-request-id", "x-generation-id"};
    struct transfer_head head = {.retry_after_ms = -1};
    char text[64] = "";
    long status = 0;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200)
        return;
    t->head_seen = true;
    head.status = (int)status;
    head.n_sent = t->n_sent;
    copy_header(t->easy, "content-type", text, sizeof text);
    head.is_event_stream = strncasecmp(text, "text/event-stream", 17) == 0;
    text[0] = '\0';
    copy_header(t->easy, "content-encoding", text, sizeof text);
    head.is_encoded = *text && strcasecmp(text, "identity") != 0;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        copy_header(t->easy, ids[i], head.request_id, sizeof head.request_id);
    head.retry_after_ms = retry_after_ms(t->easy);
    text[0] = '\0';
    copy_header(t->easy, "x-should-retry", text, sizeof text);
    head.should_retry = (char)(!strcmp(text, "true") ? 't' : !strcmp(text, "false") ? 'f' : 0);
    if (t->state != TRANSFER_RUNNING)
        return;
    endpoint_report_answer(t->endpoint, head.status, head.retry_after_ms);
    t->handler->head(t->user, &head);
    /* From here on another limit holds, most often a nearer one. Without memory for that the one
     * that was armed stays. */
    if (t->state == TRANSFER_RUNNING)
        (void)transfer_arm(t);
}

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    struct transfer *t = user;

    (void)size;
    t->last_byte_us = worker_turn_us(t->upstream->worker);
    t->n_head_bytes += n;
    /* libcurl copies all that it has of the head for each line that goes on with the one before. */
    if (n > 0 && (*line == ' ' || *line == '\t'))
        t->n_head_bytes += FOLD_BYTES;
    if (t->n_head_bytes > HEAD_MAX_BYTES)
        return 0;
    /* The empty line behind the headers; 1xx and trailers have one too. */
    if ((n == 2 || n == 1) && line[n - 1] == '\n' && !t->head_seen)
        report_head(t);
    return t->state == TRANSFER_ENDED ? 0 : n;
}

/* Who says more than that it has ended is not to be asked on the same connection. */
static size_t discard(struct transfer *t, const char *data, size_t n)
{
    t->n_discarded += n;
    for (size_t i = 0; i < n && t->n_discarded <= FINISH_BYTES; i++)
        if (data[i] != '\r' && data[i] != '\n')
            return 0;
    return t->n_discarded <= FINISH_BYTES ? n : 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *user)
{
    struct transfer *t = user;

    (void)size;
    if (t->state == TRANSFER_ENDED)
        return 0;
    if (t->state == TRANSFER_FINISHING)
        return discard(t, data, n);
    if (t->pause && !t->is_announcing) {
        t->is_paused = true;
        if (!multi_user_is_seen(&t->multi_user))
            worker_defer(t->upstream->worker, &t->announce);
        return CURL_WRITEFUNC_PAUSE;
    }
    t->last_byte_us = worker_turn_us(t->upstream->worker);
    t->body_seen = true;
    t->handler->data(t->user, (const uint8_t *)data, n);
    return t->state == TRANSFER_ENDED ? 0 : n;
}

/* Whether the request goes out on a new connection, and what that took. */
static void count_connection(struct transfer *t)
{
    struct metrics_upstream *m = t->upstream->metrics;
    curl_off_t begun_us = 0, connected_us = 0;
    long n_connects = 0;

    curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &n_connects);
    if (n_connects <= t->n_connects) {
        metrics_add(&m->connections_reused, 1);
        return;
    }
    t->n_connects = n_connects;
    metrics_add(&m->connections_opened, 1);
    curl_easy_getinfo(t->easy, CURLINFO_NAMELOOKUP_TIME_T, &begun_us);
    if (curl_easy_getinfo(t->easy, CURLINFO_APPCONNECT_TIME_T, &connected_us) != CURLE_OK ||
        connected_us == 0)
        curl_easy_getinfo(t->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
    metrics_observe(&m->connect, connected_us - begun_us);
}

/* libcurl sends a request again, silently, when a reused connection dies before an answer. This is
 * called each time. */
static int on_send(void *user, char *peer_ip, char *own_ip, int peer_port, int own_port)
{
    struct transfer *t = user;

    (void)peer_ip, (void)own_ip, (void)peer_port, (void)own_port;
    if (t->n_sent > 0 && !t->upstream->settings->resend) {
        t->not_resent = true;
        return CURL_PREREQFUNC_ABORT;
    }
    t->n_sent++;
    count_connection(t);
    t->multi_user.is_sent = true;
    if (t->endpoint->load->breaker.n_failures > 0)
        endpoint_report(t->endpoint, true);
    return CURL_PREREQFUNC_OK;
}

/* ---- The end ---- */

enum transfer_phase upstream_phase(const struct transfer *t)
{
    curl_off_t resolved = 0;

    if (t->body_seen)
        return TRANSFER_BODY;
    if (t->head_seen)
        return TRANSFER_HEADERS;
    if (t->n_sent > 0)
        return TRANSFER_SEND;
    curl_easy_getinfo(t->easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
    return t->multi_user.is_connected ? TRANSFER_TLS
           : resolved > 0             ? TRANSFER_CONNECT
                                      : TRANSFER_RESOLVE;
}

static enum transfer_outcome outcome_of(const struct transfer *t, CURLcode code)
{
    if (t->not_resent)
        return TRANSFER_NOT_RESENT;
    if (t->lookup_answer == LOOKUP_TOO_MANY)
        return TRANSFER_LOOKUPS_HANG;
    if (t->n_head_bytes > HEAD_MAX_BYTES)
        return TRANSFER_HEAD_TOO_LARGE;
    switch (code) {
    case CURLE_OK:
        return TRANSFER_COMPLETE;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
        return TRANSFER_UNREACHABLE;
    case CURLE_OPERATION_TIMEDOUT:
        return TRANSFER_CONNECT_TIMEOUT;
    case CURLE_SSL_CONNECT_ERROR:
        return TRANSFER_TLS_FAILED;
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        return TRANSFER_TLS_REFUSED;
    case MULTI_NO_DESCRIPTOR:
        return TRANSFER_NO_DESCRIPTOR;
    case MULTI_UNWATCHED:
        return TRANSFER_OUT_OF_MEMORY;
    case CURLE_OUT_OF_MEMORY:
        /* Also what libcurl says of a response header that is too long. */
        return t->n_sent > 0 && !t->head_seen && curl_memory_n_refused() == t->n_refused
                   ? TRANSFER_HEAD_TOO_LARGE
                   : TRANSFER_OUT_OF_MEMORY;
    default:
        return TRANSFER_BROKEN;
    }
}

/* It was there, and did not do what it was asked for. */
static bool is_fault(const struct transfer *t, enum transfer_outcome outcome)
{
    switch (outcome) {
    case TRANSFER_TLS_REFUSED:
    case TRANSFER_TLS_FAILED:
    case TRANSFER_BROKEN:
    case TRANSFER_FIRST_BYTE_TIMEOUT:
    case TRANSFER_IDLE_TIMEOUT:
        return true;
    case TRANSFER_COMPLETE:
        return !t->head_seen;
    default:
        return false;
    }
}

static void transfer_report(struct transfer *t, enum transfer_outcome outcome, const char *reason)
{
    const struct transfer_handler *handler = t->handler;
    struct transfer_result result = {
        .outcome = outcome,
        .phase = outcome == TRANSFER_TLS_REFUSED || outcome == TRANSFER_TLS_FAILED
                     ? TRANSFER_TLS
                     : upstream_phase(t),
        .n_sent = t->n_sent,
        .reason = reason,
    };
    bool was_running = t->state == TRANSFER_RUNNING;
    bool is_unreachable = outcome == TRANSFER_UNREACHABLE || outcome == TRANSFER_CONNECT_TIMEOUT;

    if (is_unreachable)
        endpoint_report(t->endpoint, false);
    if (was_running && is_fault(t, outcome))
        endpoint_report_answer(t->endpoint, 0, -1);
    if (is_unreachable)
        lookup_failed(&t->endpoint->lookup, &t->lookup);
    transfer_end(t);
    if (was_running)
        handler->done(t->user, &result);
}

static const char *reason_of(const struct transfer *t, CURLcode code)
{
    return t->is_misled       ? "its name leads to an address that is no server's"
           : code == CURLE_OK ? ""
                              : curl_easy_strerror(code);
}

static void on_ended(struct multi_user *multi_user, CURLcode code)
{
    struct transfer *t = container_of(multi_user, struct transfer, multi_user);

    t->in_multi = false;
    if (t->state != TRANSFER_ENDED && !t->lookup.is_waiting)
        transfer_report(t, outcome_of(t, code), reason_of(t, code));
}

static void on_lookup_over(struct lookup_user *lookup)
{
    struct transfer *t = container_of(lookup, struct transfer, lookup);

    /* libcurl has given it up, and may not have been asked for that yet: a name that is found at
     * once is heard of before. */
    if (t->in_multi)
        multi_remove(t->multi, &t->multi_user);
    if (transfer_begin(t) < 0)
        transfer_report(t, TRANSFER_OUT_OF_MEMORY, "");
}

static void on_lookup_failed(struct lookup_user *lookup)
{
    struct transfer *t = container_of(lookup, struct transfer, lookup);

    transfer_report(t, TRANSFER_UNREACHABLE, curl_easy_strerror(CURLE_COULDNT_RESOLVE_HOST));
}

/* When the timer is due at the earliest, seen from now. */
static int64_t transfer_due_us(const struct transfer *t)
{
    const struct config_upstream *s = t->upstream->settings;
    int64_t limit = t->head_seen ? s->idle_timeout_us : s->first_byte_timeout_us;
    int64_t since = t->head_seen ? t->last_byte_us : t->start_us, due;

    if (t->state == TRANSFER_RUNNING && (t->pause || t->is_paused))
        return CONFIG_INFINITY;
    if (limit == CONFIG_INFINITY || __builtin_add_overflow(since, limit, &due))
        return CONFIG_INFINITY;
    return due - worker_turn_us(t->upstream->worker);
}

static int transfer_arm(struct transfer *t)
{
    int64_t due = transfer_due_us(t);

    t->is_overdue = false;
    /* An infinite timer still looks once an hour: it is the same code. */
    return worker_arm(&t->timer, due < INT64_C(3600000000) ? due : INT64_C(3600000000));
}

/* Not moved at every byte: when it fires it looks how long the silence really was. */
static void on_timer(evutil_socket_t fd, short what, void *user)
{
    struct transfer *t = user;

    (void)fd, (void)what;
    if (t->state == TRANSFER_FINISHING) {
        transfer_end(t);
        return;
    }
    if (transfer_due_us(t) > 0) {
        if (transfer_arm(t) == 0)
            return;
        transfer_report(t, TRANSFER_OUT_OF_MEMORY, "");
        return;
    }
    /* A process that was stopped, or a busy loop, hears of its timers before it has read what came
     * in time. */
    if (!t->is_overdue && worker_arm(&t->timer, LOOK_AGAIN_US) == 0) {
        t->is_overdue = true;
        return;
    }
    transfer_report(t, t->head_seen ? TRANSFER_IDLE_TIMEOUT : TRANSFER_FIRST_BYTE_TIMEOUT, "");
}

/* ---- What the caller asks ---- */

static void run_resume(struct task *task)
{
    struct transfer *t = container_of(task, struct transfer, resume);

    CURLcode code = CURLE_OK;

    if (t->state != TRANSFER_RUNNING || t->pause)
        return;
    t->last_byte_us = worker_turn_us(t->upstream->worker);
    if (t->is_paused) {
        t->is_paused = false;
        /* Delivers what libcurl has kept before it returns, which may pause it again. */
        code = curl_easy_pause(t->easy, CURLPAUSE_CONT);
        multi_check(t->multi);
    }
    if (t->state == TRANSFER_RUNNING && (code != CURLE_OK || transfer_arm(t) < 0))
        transfer_report(t, TRANSFER_OUT_OF_MEMORY, "");
}

/* It was paused before libcurl told of its socket (multi.h): without the pause it does. */
static void run_announce(struct task *task)
{
    struct transfer *t = container_of(task, struct transfer, announce);

    if (t->state != TRANSFER_RUNNING || !t->is_paused)
        return;
    t->is_paused = false;
    t->is_announcing = true;
    CURLcode code = curl_easy_pause(t->easy, CURLPAUSE_CONT);
    t->is_announcing = false;
    multi_check(t->multi);
    if (t->state == TRANSFER_RUNNING && code != CURLE_OK)
        transfer_report(t, TRANSFER_OUT_OF_MEMORY, "");
}

struct upstream_body *upstream_body_new(struct buffer *bytes)
{
    struct upstream_body *body = calloc(1, sizeof *body);

    if (!body)
        return NULL;
    body->n_refs = 1;
    body->bytes = *bytes;
    *bytes = BUFFER_INIT_IN(bytes->limit_bytes, bytes->memory);
    return body;
}

struct upstream_body *upstream_body_unref(struct upstream_body *body)
{
    if (body && --body->n_refs == 0) {
        buffer_done(&body->bytes);
        free(body);
    }
    return NULL;
}

/* The list is shared: what is the transfer's own goes in front of it. */
static struct curl_slist *transfer_headers(struct transfer *t, const char *call_id, bool stream)
{
    struct upstream *u = t->upstream;
    struct curl_slist *shared = t->headers ? t->headers
                                : stream   ? u->headers_stream
                                           : u->headers_unary;

    if (u->has_request_id)
        return shared;
    strcpy(stpcpy(t->id_header, ID_HEADER), call_id);
    t->id_node = (struct curl_slist){.data = t->id_header, .next = shared};
    return &t->id_node;
}

int upstream_start(struct endpoint *e, struct upstream_body *body, const char *key,
                   const char *call_id, bool stream, const struct transfer_handler *handler,
                   void *user, struct transfer **ret)
{
    struct upstream *u = e->upstream;
    struct transfer *t = calloc(1, sizeof *t);

    if (!t)
        return -ENOMEM;
    t->upstream = upstream_ref(u);
    t->endpoint = e;
    t->handler = handler;
    t->user = user;
    t->multi_user.ended = on_ended;
    t->multi_user.connects = on_connects;
    t->lookup.go_on = on_lookup_over;
    t->lookup.failed = on_lookup_failed;
    t->multi_user.is_alone = !u->is_http_2;
    t->release.run = run_release;
    t->resume.run = run_resume;
    t->announce.run = run_announce;
    t->start_us = worker_turn_us(u->worker);
    t->n_refused = curl_memory_n_refused();
    t->body = body;
    body->n_refs++;
    evtimer_assign(&t->timer, u->worker->base, on_timer, t);

    t->easy = endpoint_take_easy(e);
    if (!t->easy || (key && upstream_headers_new(u->settings, key, stream, &t->headers) < 0)) {
        transfer_free(t);
        return -ENOMEM;
    }
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, transfer_headers(t, call_id, stream));
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)buffer_length(&body->bytes));
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, (char *)buffer_bytes(&body->bytes));
    curl_easy_setopt(t->easy, CURLOPT_BUFFERSIZE,
                     (long)(body->wants_little ? READ_LITTLE_BYTES : READ_BYTES));
    curl_easy_setopt(t->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(t->easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_PREREQFUNCTION, on_send);
    curl_easy_setopt(t->easy, CURLOPT_PREREQDATA, t);
    if (!e->is_numeric) {
        curl_easy_setopt(t->easy, CURLOPT_RESOLVER_START_FUNCTION, on_lookup);
        curl_easy_setopt(t->easy, CURLOPT_RESOLVER_START_DATA, t);
    }
    e->load->n_running++;
    if (transfer_arm(t) < 0 || transfer_begin(t) < 0) {
        e->load->n_running--;
        transfer_free(t);
        return -ENOMEM;
    }
    e->load->n_asked++;
    *ret = t;
    return 0;
}

void upstream_pause(struct transfer *t)
{
    t->pause = true;
}

void upstream_resume(struct transfer *t)
{
    t->pause = false;
    worker_defer(t->upstream->worker, &t->resume);
}

void upstream_cancel(struct transfer *t)
{
    if (t->state != TRANSFER_ENDED)
        transfer_end(t);
}

void upstream_finish(struct transfer *t)
{
    curl_off_t n_uploaded = 0;

    if (t->state != TRANSFER_RUNNING)
        return;
    /* A server may answer before it has read all: such a connection is of no more use. */
    curl_easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &n_uploaded);
    if (!t->in_multi || t->is_paused || (size_t)n_uploaded < buffer_length(&t->body->bytes) ||
        worker_arm(&t->timer, FINISH_US) < 0) {
        transfer_end(t);
        return;
    }
    t->pause = false;
    t->endpoint->load->n_running--;
    t->state = TRANSFER_FINISHING;
    t->handler = NULL;
    LIST_INSERT_HEAD(&t->upstream->worker->finishing, t, next);
}

void upstream_cancel_finishing(struct worker *worker)
{
    struct transfer *t;

    while ((t = LIST_FIRST(&worker->finishing)))
        transfer_end(t);
}
