/*
 * The life of a request from its parsed body to its answer. Owns the choices, the timer between
 * slices, and the watch over the client's connection.
 */
#include "job.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "answer.h"
#include "reply.h"

/* A reader that has more than this to read yet is waited for. */
enum { OUTPUT_MAX_BYTES = 64 << 10, INPUT_MAX_BYTES = 64 << 10 };
/* Most tokens of a choice in one slice, if it is behind its pace. */
enum { CATCH_UP_MAX = 16 };

struct job {
    struct job_service *service;
    struct evhttp_request *http;
    struct request request;
    struct suffix suffix;
    struct reply_head head;
    struct choice *choices; /* best_of for each prompt */
    size_t n_choices;
    struct event *slice;
    struct evbuffer *out;
    struct sampler_random padding; /* for obfuscation */
    int64_t started_ms;
    uint64_t n_turns; /* tokens that every choice could have by now */
};

/* ---- Beginning ---- */

static int random_number(uint64_t *ret)
{
    uint64_t number;

    if (getrandom(&number, sizeof number, 0) != sizeof number)
        return -EIO;
    *ret = number;
    return 0;
}

static void describe(struct job *job, uint64_t number)
{
    const struct model *model = job->service->tools.model;

    snprintf(job->head.id, sizeof job->head.id, "cmpl-%016llx", (unsigned long long)number);
    snprintf(job->head.fingerprint, sizeof job->head.fingerprint, "fp_%010llx",
             (unsigned long long)(model_fingerprint(model) & 0xffffffffff));
    job->head.created = time(NULL);
    job->head.model = job->service->model_name;
    job->head.vocabulary = model_vocabulary(model);
}

static int init_choices(struct job *job, uint64_t seed)
{
    const struct request *q = &job->request;
    const size_t per_prompt = (size_t)q->best_of;
    int r = 0;

    job->choices = calloc(q->n_prompts * per_prompt, sizeof *job->choices);
    if (!job->choices)
        return -ENOMEM;
    while (r == 0 && job->n_choices < q->n_prompts * per_prompt) {
        size_t i = job->n_choices++;
        r = choice_init(&job->choices[i], &job->service->tools, q, &job->suffix,
                        &q->prompts[i / per_prompt], seed, i);
    }
    return r;
}

static void run_slice(evutil_socket_t fd, short what, void *arg);

static int init(struct job *job)
{
    uint64_t number, seed;
    int r;

    if (random_number(&number) < 0 || random_number(&seed) < 0)
        return -EIO;
    if (job->request.has_seed)
        seed = (uint64_t)job->request.seed;
    describe(job, number);
    sampler_seed(&job->padding, number, 0);
    job->slice = evtimer_new(job->service->base, run_slice, job);
    job->out = evbuffer_new();
    if (!job->slice || !job->out)
        return -ENOMEM;
    r = suffix_init(&job->suffix, job->service->tools.model, &job->request.suffix);
    return r < 0 ? r : init_choices(job, seed);
}

/* ---- End ---- */

static void free_job(struct job *job)
{
    for (size_t i = 0; i < job->n_choices; i++)
        choice_done(&job->choices[i]);
    free(job->choices);
    suffix_done(&job->suffix);
    request_done(&job->request);
    if (job->slice)
        event_free(job->slice);
    if (job->out)
        evbuffer_free(job->out);
    job->service->counters.active--;
    free(job);
}

/* Hands the connection back to evhttp. */
static void unwatch(struct job *job)
{
    struct evhttp_connection *connection = evhttp_request_get_connection(job->http);

    evhttp_connection_set_closecb(connection, NULL, NULL);
    bufferevent_setwatermark(evhttp_connection_get_bufferevent(connection), EV_READ, 0, 0);
}

static void fail(struct job *job, bool is_begun)
{
    struct refusal r;

    unwatch(job);
    if (is_begun) { /* an answer that was begun can only be cut */
        evhttp_connection_free(evhttp_request_get_connection(job->http));
    } else {
        refusal_set_memory(&r);
        answer_refusal(job->http, &r, job->started_ms);
    }
    free_job(job);
}

/* evhttp leaves the request of a connection that broke to us, and frees it with one that it closes
 * itself. */
static void on_close(struct evhttp_connection *connection, void *arg)
{
    struct job *job = arg;

    (void)connection;
    job->service->counters.clients_gone++;
    if (!evhttp_request_get_connection(job->http))
        evhttp_request_free(job->http);
    free_job(job);
}

/* While an answer is made nothing is read but the end of the connection: evhttp has no state for a
 * next request that comes early, so it waits in the input buffer. */
static void watch(struct job *job)
{
    struct evhttp_connection *connection = evhttp_request_get_connection(job->http);
    struct bufferevent *b = evhttp_connection_get_bufferevent(connection);
    bufferevent_data_cb on_write;
    bufferevent_event_cb on_event;
    void *arg;

    bufferevent_getcb(b, NULL, &on_write, &on_event, &arg);
    bufferevent_setcb(b, NULL, on_write, on_event, arg);
    bufferevent_setwatermark(b, EV_READ, 0, INPUT_MAX_BYTES);
    bufferevent_enable(b, EV_READ);
    evhttp_connection_set_closecb(connection, on_close, job);
}

/* ---- Whole answers ---- */

static struct reply_usage usage_of(const struct job *job)
{
    struct reply_usage usage = {0};

    for (size_t i = 0; i < job->request.n_prompts; i++)
        usage.n_prompt += job->request.prompts[i].n + job->request.suffix.n;
    for (size_t i = 0; i < job->n_choices; i++)
        usage.n_completion += choice_n_generated(&job->choices[i]);
    return usage;
}

/* The likelier first; of equals the one that began first. */
static int compare_ranks(const void *a, const void *b)
{
    const struct choice *const *x = a, *const *y = b;
    double of_x = choice_rank(*x), of_y = choice_rank(*y);

    if (of_x != of_y)
        return of_x > of_y ? -1 : 1;
    return *x < *y ? -1 : 1;
}

/* Takes the n best of each prompt's choices. */
static int take_best(struct job *job, struct choice **ranked, struct reply_choice *ret)
{
    const size_t n = (size_t)job->request.n, best_of = (size_t)job->request.best_of;
    int r = 0;

    for (size_t i = 0; i < job->n_choices; i++)
        ranked[i] = &job->choices[i];
    for (size_t i = 0; i < job->request.n_prompts && best_of > n; i++)
        qsort(ranked + i * best_of, best_of, sizeof *ranked, compare_ranks);
    for (size_t i = 0; i < job->request.n_prompts * n && r == 0; i++) {
        struct choice *c = ranked[i / n * best_of + i % n];
        ret[i].index = i;
        ret[i].finish_reason = c->finish_reason;
        r = choice_take(c, &ret[i].piece);
    }
    return r;
}

static int write_completion(struct job *job)
{
    const size_t n = job->request.n_prompts * (size_t)job->request.n;
    struct choice **ranked = calloc(job->n_choices, sizeof *ranked);
    struct reply_choice *replies = calloc(n, sizeof *replies);
    struct reply_usage usage = usage_of(job);
    int r = ranked && replies ? take_best(job, ranked, replies) : -ENOMEM;

    if (r == 0)
        r = reply_completion(&job->head, replies, n, job->request.logprobs >= 0, &usage, job->out);
    for (size_t i = 0; replies && i < n; i++)
        choice_piece_done(&replies[i].piece);
    free(replies);
    free(ranked);
    return r;
}

static void finish(struct job *job)
{
    if (write_completion(job) < 0) {
        fail(job, false);
        return;
    }
    unwatch(job);
    answer_json(job->http, 200, job->out, job->started_ms);
    free_job(job);
}

/* ---- Streams ---- */

enum { PADDING_UNIT = 16 };

/* Text and padding together fill units, so that the size of a chunk tells less. */
static const char *make_padding(struct job *job, size_t text_len, char padding[PADDING_UNIT + 1])
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t n = PADDING_UNIT - text_len % PADDING_UNIT;

    if (!job->request.include_obfuscation)
        return NULL;
    for (size_t i = 0; i < n; i++)
        padding[i] = letters[sampler_random_next(&job->padding) % (sizeof letters - 1)];
    padding[n] = '\0';
    return padding;
}

static int write_chunk(struct job *job, size_t index)
{
    struct choice *c = &job->choices[index];
    struct reply_choice reply = {.index = index, .finish_reason = c->finish_reason};
    char padding[PADDING_UNIT + 1];
    int r = choice_take(c, &reply.piece);

    if (r < 0)
        return r;
    struct reply_chunk_options options = {
        .logprobs = job->request.logprobs >= 0,
        .usage = job->request.include_usage,
        .obfuscation = make_padding(job, reply.piece.len, padding),
    };
    if (reply.piece.len > 0 || reply.finish_reason)
        r = reply_chunk(&job->head, &reply, &options, job->out);
    choice_piece_done(&reply.piece);
    return r;
}

static int write_stream_end(struct job *job)
{
    struct reply_usage usage = usage_of(job);
    char padding[PADDING_UNIT + 1];
    int r = 0;

    if (job->request.include_usage)
        r = reply_usage_chunk(&job->head, &usage, make_padding(job, 0, padding), job->out);
    return r < 0 ? r : reply_done(job->out);
}

static void start_stream(struct job *job)
{
    job->service->counters.streams++;
    evhttp_add_header(evhttp_request_get_output_headers(job->http), "Cache-Control", "no-cache");
    answer_headers(job->http, "text/event-stream", job->started_ms);
    evhttp_send_reply_start(job->http, 200, NULL);
}

static void schedule(struct job *job);

static void on_drained(struct evhttp_connection *connection, void *arg)
{
    struct job *job = arg;

    (void)connection;
    if (!evtimer_pending(job->slice, NULL))
        schedule(job);
}

/* Sends what there is. Goes on at once, or when the reader has read. */
static void send_slice(struct job *job, bool is_end)
{
    struct evhttp_request *http = job->http;
    struct bufferevent *b = evhttp_connection_get_bufferevent(evhttp_request_get_connection(http));

    if (is_end) {
        unwatch(job);
        evhttp_send_reply_chunk(http, job->out); /* forgets on_drained, too */
        evhttp_send_reply_end(http);
        free_job(job);
        return;
    }
    if (evbuffer_get_length(job->out) > 0)
        evhttp_send_reply_chunk_with_cb(http, job->out, on_drained, job);
    if (evbuffer_get_length(bufferevent_get_output(b)) <= OUTPUT_MAX_BYTES)
        schedule(job);
}

/* ---- Slices ---- */

static void schedule(struct job *job)
{
    double rate = job->service->tokens_per_second;
    struct timeval delay = {0};

    if (rate > 0) {
        double due_ms = (double)job->started_ms + 1000 * (double)(job->n_turns + 1) / rate;
        double left_ms = due_ms - (double)answer_now_ms();
        if (left_ms > 0) {
            delay.tv_sec = (time_t)(left_ms / 1000);
            delay.tv_usec = (suseconds_t)((left_ms - 1000 * (double)delay.tv_sec) * 1000);
        }
    }
    /* A timer even if due: an event made active here would starve the sockets. */
    if (evtimer_add(job->slice, &delay) < 0)
        fail(job, job->request.stream);
}

/* How many tokens each choice may have more. */
static uint64_t n_turns_due(const struct job *job)
{
    double rate = job->service->tokens_per_second;

    if (rate <= 0)
        return 1;
    double due = (double)(answer_now_ms() - job->started_ms) * rate / 1000 - (double)job->n_turns;
    return due < 1 ? 0 : due > CATCH_UP_MAX ? CATCH_UP_MAX : (uint64_t)due;
}

/* One token for each choice. Returns the number of choices that are not at their end. */
static int take_turn(struct job *job, size_t *ret_n_left)
{
    size_t n_left = 0;

    job->n_turns++;
    for (size_t i = 0; i < job->n_choices; i++) {
        struct choice *c = &job->choices[i];
        if (c->finish_reason)
            continue;
        size_t before = choice_n_generated(c);
        int r = choice_step(c, &job->service->tools);
        job->service->counters.tokens += choice_n_generated(c) - before;
        if (r == 0 && job->request.stream)
            r = write_chunk(job, i);
        if (r < 0)
            return r;
        n_left += !c->finish_reason;
    }
    *ret_n_left = n_left;
    return 0;
}

static void run_slice(evutil_socket_t fd, short what, void *arg)
{
    struct job *job = arg;
    size_t n_left = 1;
    int r = 0;

    (void)fd, (void)what;
    for (uint64_t n = n_turns_due(job); n > 0 && n_left > 0 && r == 0; n--)
        r = take_turn(job, &n_left);
    if (r == 0 && n_left == 0 && job->request.stream)
        r = write_stream_end(job);
    if (r < 0)
        fail(job, job->request.stream);
    else if (job->request.stream)
        send_slice(job, n_left == 0);
    else if (n_left == 0)
        finish(job);
    else
        schedule(job);
}

void job_start(struct job_service *service, struct evhttp_request *http, struct request *request,
               int64_t started_ms)
{
    struct job *job = calloc(1, sizeof *job);
    struct refusal r;

    if (!job) {
        request_done(request);
        refusal_set_memory(&r);
        answer_refusal(http, &r, started_ms);
        return;
    }
    *job = (struct job){
        .service = service, .http = http, .request = *request, .started_ms = started_ms};
    *request = (struct request){0};
    service->counters.active++;
    watch(job);
    if (init(job) < 0) {
        fail(job, false);
        return;
    }
    if (job->request.stream)
        start_stream(job);
    schedule(job);
}
