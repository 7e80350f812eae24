#include "record.h"

#include <stdio.h>

#include "call.h"
#include "config.h"
#include "crew.h"
#include "log.h"
#include "metrics.h"
#include "policy.h"
#include "service.h"

/* What the call took of the daemon itself: neither the caller's sending, nor a wait, nor the
 * upstream. */
static int64_t own_us(const struct call *call, int64_t now_us)
{
    const struct record_times *t = &call->times;

    return t->request_us == 0
               ? 0
               : now_us - t->request_us - t->queue_us - t->backoff_us - t->upstream_us;
}

static void count(const struct call *call, int status, const char *reason, int64_t now_us)
{
    struct metrics *m = call->worker->metrics;
    struct metrics_upstream *u = call->upstream ? upstream_metrics(call->upstream) : NULL;

    metrics_count_call(m, u, call->method ? call->method->metric : METRICS_OTHER_METHOD, status,
                       reason);
    if (!u)
        return;
    metrics_observe(&u->duration, now_us - call->start_us);
    metrics_observe(&m->totals.own, own_us(call, now_us));
    if (call->progress.prompt_tokens > 0)
        metrics_add(&u->prompt_tokens, (uint64_t)call->progress.prompt_tokens);
    if (call->progress.completion_tokens > 0)
        metrics_add(&u->completion_tokens, (uint64_t)call->progress.completion_tokens);
}

/* ---- The log ---- */

/* Health checks and questions for the status come every second, and tell nothing; neither do those
 * who watch. */
static int level_of(const struct call *call)
{
    return call->method && (call->method->drain || call->method->metric == METRICS_HEALTH ||
                            call->method->metric == METRICS_STATUS)
               ? LOG_DEBUG
               : LOG_INFO;
}

static void tell_left_out(struct log *log, unsigned long n)
{
    if (n > 0)
        log_warning(log, "the records of %lu calls were left out: more than %d in a second", n,
                    RECORD_LIMIT);
}

void record_tell_left_out(struct crew *c)
{
    tell_left_out(c->log, c->records.n_left_out);
    c->records.n_left_out = 0;
}

/* Whether one more has a place. ret_left_out: how many had none, to be told now. */
static bool take_place(struct record_limit *l, int64_t now_us, unsigned long *ret_left_out)
{
    if (l->since_us == 0 || now_us - l->since_us >= 1000000) {
        l->since_us = now_us;
        l->n = 0;
        *ret_left_out = l->n_left_out;
        l->n_left_out = 0;
    }
    if (l->n < RECORD_LIMIT) {
        l->n++;
        return true;
    }
    l->n_left_out++;
    return false;
}

static bool admit(struct worker *w, int64_t now_us)
{
    unsigned long n_left_out = 0;

    accounts_lock(&w->crew->accounts);
    bool has_place = take_place(&w->crew->records, now_us, &n_left_out);
    accounts_unlock(&w->crew->accounts);
    tell_left_out(w->log, n_left_out);
    if (!has_place)
        metrics_add(&w->metrics->totals.records_left_out, 1);
    return has_place;
}

struct fields {
    struct log_field list[LOG_FIELDS_MAX];
    size_t n;
};

static void add_text(struct fields *f, const char *name, const char *text)
{
    if (text && *text)
        f->list[f->n++] = (struct log_field){.name = name, .text = text};
}

static void add_number(struct fields *f, const char *name, int64_t number)
{
    f->list[f->n++] = (struct log_field){.name = name, .number = number};
}

static void add_if(struct fields *f, const char *name, int64_t number, bool is_known)
{
    if (is_known)
        add_number(f, name, number);
}

static void add_caller(struct fields *f, const struct caller *c)
{
    add_number(f, "COMPLETION_UID", c->uid);
    add_if(f, "COMPLETION_PID", c->pid, c->pid > 0);
    add_text(f, "COMPLETION_UNIT", c->unit);
}

static void add_upstream(struct fields *f, const struct call *call)
{
    const struct translate_progress *p = &call->progress;

    if (call->upstream)
        add_text(f, "COMPLETION_UPSTREAM", upstream_settings(call->upstream)->name);
    if (call->endpoint)
        add_text(f, "COMPLETION_ENDPOINT", endpoint_name(call->endpoint));
    add_if(f, "COMPLETION_HTTP_STATUS", call->head.status, call->head.status > 0);
    add_number(f, "COMPLETION_ATTEMPTS", call->attempts);
    add_number(f, "COMPLETION_CHUNKS", call->n_replies);
    if (!call->upstream)
        return;
    add_if(f, "COMPLETION_PROMPT_TOKENS", p->prompt_tokens, p->prompt_tokens >= 0);
    add_if(f, "COMPLETION_COMPLETION_TOKENS", p->completion_tokens, p->completion_tokens >= 0);
}

static void write_record(const struct call *call, const char *path, int status, const char *reason,
                         int64_t now_us)
{
    const struct record_times *t = &call->times;
    const char *upstream = call->upstream ? upstream_settings(call->upstream)->name : "-";
    struct fields f = {.n = 0};
    char text[LOG_TEXT_MAX];

    add_text(&f, "MESSAGE_ID", RECORD_MESSAGE_ID);
    add_text(&f, "COMPLETION_ID", call->id);
    add_caller(&f, call->caller);
    add_text(&f, "COMPLETION_METHOD", path);
    add_text(&f, "COMPLETION_MODEL", call->model);
    add_text(&f, "COMPLETION_STATUS", grpc_status_name(status));
    add_text(&f, "COMPLETION_REASON", reason);
    add_upstream(&f, call);
    add_number(&f, "COMPLETION_QUEUE_US", t->queue_us);
    add_if(&f, "COMPLETION_FIRST_BYTE_US", t->head_us - call->start_us, t->head_us > 0);
    add_number(&f, "COMPLETION_TOTAL_US", now_us - call->start_us);
    snprintf(text, sizeof text,
             "call ended: id=%s method=%.128s uid=%u status=%s reason=%s upstream=%.64s "
             "http_status=%d attempts=%u replies=%lld tokens=%lld ms=%lld model=%s",
             call->id, path, call->caller->uid, grpc_status_name(status), reason ? reason : "-",
             upstream, call->head.status, call->attempts, (long long)call->n_replies,
             (long long)(call->upstream ? call->progress.total_tokens : -1),
             (long long)(now_us - call->start_us) / 1000, *call->model ? call->model : "-");
    log_record(call->worker->log, level_of(call), text, f.list, f.n);
}

void record_call(const struct call *call, int status, const char *reason)
{
    const char *path = call->grpc     ? grpc_server_call_path(call->grpc)
                       : call->method ? call->method->path
                                      : "-";
    int64_t now_us = worker_now_us();

    if (!call->method || !call->method->drain)
        count(call, status, reason, now_us);
    if (level_of(call) <= call->worker->log->level && admit(call->worker, now_us))
        write_record(call, path, status, reason, now_us);
}
