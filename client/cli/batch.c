#include "batch.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TICK_MS = 100,  /* a signal between two looks is seen then, too */
    SYNC_MS = 1000, /* what a loss of power may cost */
    BACKOFF_MS = 500,
    BACKOFF_MAX_MS = 30000,
    ADVISED_MAX_MS = 600000, /* nobody waits longer for one request */
    RESTART_MS = 30000,      /* for a daemon that is being restarted */
};

/* A request that has no result yet. */
struct job {
    bool is_busy;
    uint64_t index;
    completion_request *request;
    completion_call *call; /* NULL: waits until at_ms */
    char *custom_id;       /* JSON, NULL: none */
    int64_t at_ms;
    int n_tries;
};

struct batch {
    const struct create_options *options;
    completion_client *client;
    completion_error *error;
    struct lines lines;
    struct results results;
    struct bar bar;
    struct job *jobs;
    size_t n_busy;
    uint64_t n_read; /* requests of the input */
    uint64_t ids_hash;
    bool at_end, wants_input, escape;
    bool has_met; /* the daemon: it is there, if not always */
    int64_t hold_until_ms, synced_ms;
    struct buffer line; /* the result that is being made */
    int status;         /* why it is to end early; EXIT_OK: it is not */
};

static void stop(struct batch *b, int status)
{
    if (b->status == EXIT_OK)
        b->status = status;
}

/* ---- Results ---- */

/* The line is made: to where it belongs. */
static void put_answer(struct batch *b, uint64_t index, bool failed)
{
    if (b->escape)
        answer_escape(&b->line);
    if (b->line.error) {
        stop(b, out_of_memory());
        return;
    }
    stop(b, results_put(&b->results, index, (const char *)buffer_bytes(&b->line),
                        buffer_length(&b->line)));
    buffer_truncate(&b->line, 0);
    buffer_trim(&b->line, 1 << 20);
    b->bar.n_done++;
    b->bar.n_failed += failed;
}

static completion_text id_of(const struct job *j)
{
    return (completion_text){j->custom_id, j->custom_id ? strlen(j->custom_id) : 0};
}

static void job_done(struct batch *b, struct job *j)
{
    completion_call_free(j->call);
    completion_request_free(j->request);
    free(j->custom_id);
    *j = (struct job){0};
    b->n_busy--;
}

static void succeed(struct batch *b, struct job *j, const completion_result *result)
{
    int64_t prompt_tokens = 0, tokens = 0;

    answer_write(&b->line, j->index, id_of(j), result);
    completion_result_usage(result, COMPLETION_USAGE_PROMPT_TOKENS, &prompt_tokens);
    completion_result_usage(result, COMPLETION_USAGE_COMPLETION_TOKENS, &tokens);
    b->bar.prompt_tokens += prompt_tokens;
    b->bar.tokens += tokens;
    put_answer(b, j->index, false);
    job_done(b, j);
}

static void fail(struct batch *b, struct job *j)
{
    answer_write_error(&b->line, j->index, id_of(j), b->error);
    put_answer(b, j->index, true);
    job_done(b, j);
}

static void refuse(struct batch *b, uint64_t index, completion_text id, const char *param,
                   const char *why)
{
    answer_write_refusal(&b->line, index, id, param, why);
    put_answer(b, index, true);
}

/* ---- Calls ---- */

static void start(struct batch *b, struct job *j)
{
    int r =
        completion_call_start(b->client, j->request, b->options->timeout_ms, &j->call, b->error);

    if (r == 0)
        completion_call_set_callback(j->call, NULL, j);
    else if (r == -ENOMEM)
        stop(b, out_of_memory());
    else
        fail(b, j);
}

/* They would all come back at once. */
static int64_t backoff_ms(const struct job *j)
{
    int64_t ms = BACKOFF_MS;

    for (int i = 1; i < j->n_tries && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    ms = ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
    return ms + ms * (int64_t)(j->index * 2654435761u % 256) / 1024;
}

/* False: not again. A limit of the user's own is kept by all of them, and is no try: the daemon
 * has said when there is place. */
static bool try_later(struct batch *b, struct job *j)
{
    int64_t advised_ms = completion_error_retry_after_ms(b->error), now = now_ms();

    if (!completion_error_retryable(b->error) || advised_ms > ADVISED_MAX_MS)
        return false;
    if (advised_ms >= 0 && !strcmp(completion_error_reason(b->error), "LOCAL_LIMIT")) {
        j->at_ms = now + advised_ms;
        if (b->hold_until_ms < j->at_ms)
            b->hold_until_ms = b->bar.paused_until_ms = j->at_ms;
    } else {
        if (j->n_tries >= b->options->retries)
            return false;
        j->n_tries++;
        j->at_ms = now + (advised_ms >= 0 ? advised_ms : backoff_ms(j));
    }
    j->call = completion_call_free(j->call);
    return true;
}

static void take(struct batch *b, struct job *j)
{
    const completion_result *result;
    int r = completion_call_next(j->call, &result, b->error);

    if (r == -EAGAIN)
        return;
    bool is_there = r > 0 || exit_status(r, b->error) != EXIT_UNREACHABLE;
    if (is_there && !b->has_met)
        b->has_met = completion_client_set_reconnect(b->client, RESTART_MS, 1) == 0;
    if (r > 0) {
        succeed(b, j, result);
    } else if (!is_there) {
        bar_hide(&b->bar);
        stop(b, report(r, b->error));
    } else if (!try_later(b, j)) {
        fail(b, j);
    }
}

static void start_waiting(struct batch *b)
{
    int64_t now = now_ms();

    for (int32_t i = 0; i < b->options->jobs && b->status == EXIT_OK; i++) {
        struct job *j = &b->jobs[i];
        if (j->is_busy && !j->call && j->at_ms <= now && b->hold_until_ms <= now)
            start(b, j);
    }
}

/* ---- Input ---- */

static struct job *free_job(struct batch *b)
{
    for (int32_t i = 0; i < b->options->jobs; i++)
        if (!b->jobs[i].is_busy)
            return &b->jobs[i];
    return NULL;
}

static void begin(struct batch *b, struct job *j, uint64_t index, const char *line, size_t length)
{
    completion_text id = entry_custom_id(line, length);
    struct entry entry;

    if (entry_read(line, length, b->options, &entry) < 0) {
        stop(b, out_of_memory());
        return;
    }
    if (!entry.request) {
        refuse(b, index, id, entry.param, entry.why);
        return;
    }
    *j = (struct job){.is_busy = true, .index = index, .request = entry.request};
    b->n_busy++;
    if (id.data && !(j->custom_id = strndup(id.data, id.length)))
        stop(b, out_of_memory());
}

static void stop_for_other_requests(struct batch *b)
{
    bar_hide(&b->bar);
    complain("%s has results of other requests than %s; what it has is left as it is",
             b->options->output_file, b->options->jsonl);
    stop(b, EXIT_USAGE);
}

/* One line of the input, for that job. r: what lines_next() said of it. */
static void take_line(struct batch *b, struct job *j, int r, const char *line, size_t length)
{
    uint64_t index = b->n_read++;
    completion_text none = {0};

    if (index < b->bar.n_before) {
        b->ids_hash = results_hash(b->ids_hash, r > 0 ? entry_custom_id(line, length) : none);
        if (b->n_read == b->bar.n_before && b->ids_hash != b->results.ids_hash)
            stop_for_other_requests(b);
    }
    if (results_has(&b->results, index))
        return;
    if (r < 0)
        refuse(b, index, none, "", "a line has at most 32 MiB");
    else
        begin(b, j, index, line, length);
}

/* As many as there are jobs for. */
static void read_requests(struct batch *b)
{
    struct job *j;
    const char *line;
    size_t length;

    b->wants_input = false;
    while (!b->at_end && b->status == EXIT_OK && (j = free_job(b)) &&
           results_can_take(&b->results, b->n_read)) {
        int r = lines_next(&b->lines, &line, &length);
        if (r == -EAGAIN) {
            b->wants_input = true;
            return;
        }
        if (r > 0 || r == -EMSGSIZE) {
            take_line(b, j, r, line, length);
        } else if (r == 0) {
            b->at_end = true;
            if (b->n_read < b->bar.n_before)
                stop_for_other_requests(b);
        } else {
            stop(b, out_of_memory());
        }
    }
}

static void fill_input(struct batch *b)
{
    int r = lines_fill(&b->lines);

    if (r == 0 || r == -EAGAIN)
        return;
    bar_hide(&b->bar);
    complain("%s: %s", b->options->jsonl, strerror(-r));
    stop(b, EXIT_LOCAL);
}

/* ---- The loop ---- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int timeout_ms(const struct batch *b)
{
    int64_t now = now_ms(), left_ms = TICK_MS;
    int client_ms = completion_client_get_timeout(b->client);

    if (client_ms >= 0)
        left_ms = earlier(left_ms, client_ms);
    for (int32_t i = 0; i < b->options->jobs; i++) {
        const struct job *j = &b->jobs[i];
        int64_t at_ms = j->at_ms > b->hold_until_ms ? j->at_ms : b->hold_until_ms;
        if (j->is_busy && !j->call)
            left_ms = earlier(left_ms, at_ms > now ? at_ms - now : 0);
    }
    return (int)left_ms;
}

static void wait_and_process(struct batch *b)
{
    struct pollfd fds[] = {
        {completion_client_get_fd(b->client), (short)completion_client_get_events(b->client), 0},
        {b->wants_input ? b->lines.fd : -1, POLLIN, 0},
    };
    completion_call *call;
    int n = poll(fds, 2, timeout_ms(b));

    if (n > 0 && fds[1].revents)
        fill_input(b);
    int r = completion_client_process(b->client);
    if (r < 0) {
        bar_hide(&b->bar);
        complain("the calls can't go on: %s", strerror(-r));
        stop(b, EXIT_LOCAL);
    }
    while (b->status == EXIT_OK && (call = completion_client_next_ready(b->client)))
        take(b, completion_call_user(call));
}

static void keep(struct batch *b)
{
    int64_t now = now_ms();

    if (now - b->synced_ms < SYNC_MS)
        return;
    stop(b, results_sync(&b->results));
    b->synced_ms = now_ms();
}

static void loop(struct batch *b)
{
    while (b->status == EXIT_OK && !was_interrupted()) {
        read_requests(b);
        start_waiting(b);
        if (b->at_end && b->n_busy == 0)
            return;
        b->bar.n_running = b->n_busy;
        bar_draw(&b->bar);
        if (b->status == EXIT_OK)
            wait_and_process(b);
        if (b->status == EXIT_OK)
            keep(b);
    }
    if (was_interrupted())
        stop(b, EXIT_INTERRUPTED);
}

/* ---- Beginning and end ---- */

static int open_all(struct batch *b)
{
    const struct create_options *o = b->options;
    int r = lines_open(&b->lines, o->jsonl);

    if (r < 0)
        return usage_error("create", "--jsonl: %s: %s", o->jsonl, strerror(-r));
    b->jobs = calloc((size_t)o->jobs, sizeof *b->jobs);
    b->line = BUFFER_INIT(ANSWER_MAX_BYTES);
    if (!b->jobs)
        return out_of_memory();
    int status = results_open(&b->results, o->output_file, o->resume);
    bar_init(&b->bar);
    b->bar.n_before = b->results.n_written;
    if (b->bar.can_show)
        b->bar.n_total = lines_count(&b->lines);
    b->escape = !o->output_file && isatty(STDOUT_FILENO);
    b->synced_ms = now_ms();
    return status;
}

static void print_cancelled(const struct batch *b)
{
    size_t n = 0;

    for (int32_t i = 0; i < b->options->jobs; i++)
        n += b->jobs[i].call != NULL;
    complain("interrupted: %zu call%s cancelled%s", n, n == 1 ? " was" : "s were",
             n > 0 ? ", and may be billed" : "");
}

/* What to do next, where something has been done and something is left. */
static void print_way_on(const struct batch *b)
{
    if (b->options->output_file)
        fprintf(stderr, "To go on: the same command%s.\n",
                b->options->resume ? "" : ", with --resume");
    else
        fprintf(stderr, "With --output-file it could go on with --resume.\n");
}

static int finish(struct batch *b)
{
    bool has_failed = b->bar.n_failed + b->results.n_failed > 0;
    bool is_cut = b->status != EXIT_OK && b->bar.n_done > 0;
    int status = b->status;

    bar_hide(&b->bar);
    if (status == EXIT_INTERRUPTED)
        print_cancelled(b);
    /* Where output is not taken nothing can be finished. */
    if (status != EXIT_LOCAL) {
        int finished = results_finish(&b->results);
        status = status ? status : finished;
    }
    if (status != EXIT_USAGE && (b->bar.can_show || has_failed || is_cut))
        bar_print_summary(&b->bar);
    if (is_cut)
        print_way_on(b);
    return status ? status : has_failed ? EXIT_SOME : EXIT_OK;
}

static void batch_free(struct batch *b)
{
    for (int32_t i = 0; b->jobs && i < b->options->jobs; i++)
        if (b->jobs[i].is_busy)
            job_done(b, &b->jobs[i]);
    free(b->jobs);
    lines_close(&b->lines);
    results_close(&b->results);
    buffer_done(&b->line);
    free(b);
}

int batch_run(completion_client *client, const struct create_options *o, completion_error *error)
{
    /* What has been given to the results is in the thousands: none of it is on the stack. */
    struct batch *b = calloc(1, sizeof *b);

    if (!b)
        return out_of_memory();
    b->options = o;
    b->client = client;
    b->error = error;
    b->lines.fd = b->results.fd = b->results.partial_fd = -1;
    int status = open_all(b);
    if (status == EXIT_OK) {
        loop(b);
        status = finish(b);
    }
    batch_free(b);
    return status;
}
