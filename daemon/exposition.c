#include "exposition.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../proto/buffer.h"
#include "../proto/grpc/grpc_status.h"
#include "config.h"
#include "crew.h"
#include "log.h"
#include "metrics.h"
#include "server.h"
#include "upstream.h"
#include "worker.h"

enum { LABEL_SIZE = 256, NUMBER_SIZE = 40 };

struct exposition {
    struct buffer *out;
    bool openmetrics;
    const char *name; /* of the family that is being written, without its prefix */
};

/* ---- Pieces ---- */

enum kind { COUNTER, GAUGE, HISTOGRAM };

static void begin(struct exposition *e, const char *name, enum kind kind, const char *help)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    const char *suffix = kind == COUNTER && !e->openmetrics ? "_total" : "";

    e->name = name;
    buffer_printf(e->out, "# HELP completiond_%s%s %s\n# TYPE completiond_%s%s %s\n", name, suffix,
                  help, name, suffix, kinds[kind]);
}

/* labels: inside of the braces, or "". */
static void sample(struct exposition *e, const char *suffix, const char *labels, const char *value)
{
    buffer_printf(e->out, "completiond_%s%s%s%s%s %s\n", e->name, suffix, *labels ? "{" : "",
                  labels, *labels ? "}" : "", value);
}

static void sample_count(struct exposition *e, const char *suffix, const char *labels, uint64_t n)
{
    char value[NUMBER_SIZE];

    snprintf(value, sizeof value, "%" PRIu64, n);
    sample(e, suffix, labels, value);
}

/* Seconds, without zeros that say nothing. */
static const char *seconds(int64_t us, char out[static NUMBER_SIZE])
{
    int n = snprintf(out, NUMBER_SIZE, "%" PRIi64 ".%06" PRIi64, us / 1000000, us % 1000000);

    while (out[n - 1] == '0' && out[n - 2] != '.')
        out[--n] = '\0';
    return out;
}

static void sample_seconds(struct exposition *e, const char *suffix, const char *labels, int64_t us)
{
    char value[NUMBER_SIZE];

    sample(e, suffix, labels, seconds(us, value));
}

/* LABEL="NAME". A name is whatever the configuration says, on one line. */
static const char *name_label(const char *label, const char *name, char out[static LABEL_SIZE])
{
    char escaped[LABEL_SIZE / 2 - 16];
    int n = snprintf(out, LABEL_SIZE, "%s=\"", label);

    log_escape(name ? name : "", escaped, sizeof escaped);
    for (const char *c = escaped; *c; c++) {
        if (*c == '"' || *c == '\\')
            out[n++] = '\\';
        out[n++] = *c;
    }
    strcpy(out + n, "\"");
    return out;
}

static const char *upstream_label(const char *name, char out[static LABEL_SIZE])
{
    return name_label("upstream", name, out);
}

static void histogram(struct exposition *e, const char *labels, const struct metrics_histogram *h)
{
    char with_le[LABEL_SIZE + NUMBER_SIZE], bound[NUMBER_SIZE];
    uint64_t n = 0;

    for (size_t i = 0; i <= METRICS_BUCKETS; i++) {
        n += h->buckets[i];
        snprintf(with_le, sizeof with_le, "%s%sle=\"%s\"", labels, *labels ? "," : "",
                 i < METRICS_BUCKETS ? seconds(metrics_bounds_us[i], bound) : "+Inf");
        sample_count(e, "_bucket", with_le, n);
    }
    sample_seconds(e, "_sum", labels, (int64_t)h->sum_us);
    sample_count(e, "_count", labels, n);
}

/* ---- Callers ---- */

static void write_calls(struct exposition *e, const struct metrics *m)
{
    char labels[LABEL_SIZE];

    begin(e, "calls", COUNTER, "Calls that have ended, by method and gRPC status.");
    for (size_t method = 0; method < METRICS_METHODS; method++)
        for (size_t status = 0; status < METRICS_STATUSES; status++) {
            uint64_t n = m->totals.calls[method][status];
            snprintf(labels, sizeof labels, "method=\"%s\",status=\"%s\"",
                     metrics_method_names[method], grpc_status_name((int)status));
            if (n > 0 || status == GRPC_OK)
                sample_count(e, "_total", labels, n);
        }
    begin(e, "refusals", COUNTER, "Calls that ended otherwise than with OK, by reason.");
    for (size_t i = 0; i < METRICS_REASONS; i++) {
        snprintf(labels, sizeof labels, "reason=\"%s\"", metrics_reason_name(i));
        sample_count(e, "_total", labels, m->totals.errors[i]);
    }
    begin(e, "own_time_seconds", HISTOGRAM,
          "What calls took in the daemon itself, without waits, caller and upstream.");
    histogram(e, "", &m->totals.own);
}

static void write_connections(struct exposition *e, const struct crew *c, const struct metrics *m)
{
    size_t limit = memory_limit(&c->memory);
    char value[NUMBER_SIZE] = "+Inf";

    begin(e, "caller_connections", COUNTER, "Connections of callers that were accepted.");
    sample_count(e, "_total", "", m->totals.connections);
    begin(e, "caller_connections_refused", COUNTER,
          "Connections of callers that were refused because there were too many.");
    sample_count(e, "_total", "", m->totals.connections_refused);
    begin(e, "caller_connections_open", GAUGE, "Connections of callers.");
    sample_count(e, "", "", crew_n_connections(c));
    begin(e, "memory_bytes", GAUGE, "What callers make the daemon hold.");
    sample_count(e, "", "", memory_used(&c->memory));
    begin(e, "memory_limit_bytes", GAUGE, "What callers may make the daemon hold (memory_max).");
    if (limit < SIZE_MAX)
        snprintf(value, sizeof value, "%zu", limit);
    sample(e, "", "", value);
}

/* ---- Upstreams ---- */

/* Of number i: those with a name, then what the others share, if there are any. */
static const struct metrics_upstream *upstream_at(const struct metrics *m, size_t i)
{
    if (i < m->n_upstreams)
        return m->upstreams[i];
    return i == m->n_upstreams && m->n_upstreams == METRICS_UPSTREAMS_MAX ? &m->others : NULL;
}

#define EACH_UPSTREAM(m, u)                                                                        \
    (size_t at = 0; (u = upstream_at(m, at)) && upstream_label(u->name, labels); at++)

static void write_by_outcome(struct exposition *e, const struct metrics *m, bool retries)
{
    const struct metrics_upstream *u;
    char labels[LABEL_SIZE], both[LABEL_SIZE + NUMBER_SIZE];

    for
        EACH_UPSTREAM(m, u)
    for (size_t i = 0; i < METRICS_OUTCOMES; i++) {
        uint64_t n = retries ? u->retries[i] : u->attempts[i];
        snprintf(both, sizeof both, "%s,outcome=\"%s\"", labels, metrics_outcome_names[i]);
        if (n > 0 || (i == METRICS_ATTEMPT_OK && !retries))
            sample_count(e, "_total", both, n);
    }
}

static void write_tokens(struct exposition *e, const struct metrics *m)
{
    const struct metrics_upstream *u;
    char labels[LABEL_SIZE], both[LABEL_SIZE + NUMBER_SIZE];

    begin(e, "tokens", COUNTER, "Tokens, as the upstreams' usage has them.");
    for
        EACH_UPSTREAM(m, u)
        {
            snprintf(both, sizeof both, "%s,kind=\"prompt\"", labels);
            sample_count(e, "_total", both, u->prompt_tokens);
            snprintf(both, sizeof both, "%s,kind=\"completion\"", labels);
            sample_count(e, "_total", both, u->completion_tokens);
        }
}

/* Members of struct metrics_upstream that are numbers, and those that are histograms. */
static void write_numbers(struct exposition *e, const struct metrics *m)
{
    static const struct {
        const char *name, *help;
        enum kind kind;
        size_t offset;
    } numbers[] = {
#define NUMBER(name, kind, member, help)                                                           \
    {name, help, kind, offsetof(struct metrics_upstream, member)}
        NUMBER("upstream_connections_opened", COUNTER, connections_opened,
               "Requests that went out on a new connection."),
        NUMBER("upstream_connections_reused", COUNTER, connections_reused,
               "Requests that went out on a kept connection."),
        NUMBER("calls_running", GAUGE, n_running, "Calls that have their turn."),
        NUMBER("calls_queued", GAUGE, n_queued, "Calls that wait for their turn."),
        NUMBER("queue_seconds", HISTOGRAM, queue, "How long calls waited for their turn."),
        NUMBER("connect_seconds", HISTOGRAM, connect,
               "What it took to connect, TLS included and the look-up of the name not."),
        NUMBER("first_byte_seconds", HISTOGRAM, first_byte,
               "From asking the upstream to the beginning of an answer that is no error."),
        NUMBER("call_duration_seconds", HISTOGRAM, duration,
               "Calls from their headers to their status."),
#undef NUMBER
    };
    const struct metrics_upstream *u;
    char labels[LABEL_SIZE];

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        begin(e, numbers[i].name, numbers[i].kind, numbers[i].help);
        for
            EACH_UPSTREAM(m, u)
            {
                const char *member = (const char *)u + numbers[i].offset;
                if (numbers[i].kind == HISTOGRAM)
                    histogram(e, labels, (const struct metrics_histogram *)member);
                else
                    sample_count(e, numbers[i].kind == COUNTER ? "_total" : "", labels,
                                 *(const uint64_t *)member);
            }
    }
}

static void write_reachability(struct exposition *e, const struct worker *w)
{
    char labels[LABEL_SIZE];

    begin(e, "upstream_reachable", GAUGE,
          "1, or 0 if none of the last connections could be made and calls fail at once.");
    for (size_t i = 0; i < w->n_upstreams && i < METRICS_UPSTREAMS_MAX; i++)
        sample_count(e, "", upstream_label(upstream_settings(w->upstreams[i])->name, labels),
                     !upstream_is_down(w->upstreams[i]));
}

static void write_endpoints(struct exposition *e, const struct worker *w)
{
    static const struct {
        const char *name, *help;
        enum kind kind;
    } families[] = {
        {"endpoint_well", "1, or 0 while calls keep away from it because it failed.", GAUGE},
        {"endpoint_calls_running", "Calls that it has.", GAUGE},
        {"endpoint_attempts", "Attempts to ask it.", COUNTER},
        {"endpoint_faults", "Attempts that failed through its own fault.", COUNTER},
    };
    char upstream[LABEL_SIZE], endpoint[LABEL_SIZE], both[2 * LABEL_SIZE];

    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        begin(e, families[f].name, families[f].kind, families[f].help);
        for (size_t i = 0; i < w->n_upstreams && i < METRICS_UPSTREAMS_MAX; i++) {
            const struct upstream *u = w->upstreams[i];
            upstream_label(upstream_settings(u)->name, upstream);
            for (size_t k = 0; k < upstream_n_endpoints(u); k++) {
                struct endpoint_view v = upstream_endpoint_view(u, k);
                const uint64_t values[] = {v.state == ENDPOINT_OK, v.n_running, v.n_asked,
                                           v.n_faults};
                snprintf(both, sizeof both, "%s,%s", upstream,
                         name_label("endpoint", v.name, endpoint));
                sample_count(e, families[f].kind == COUNTER ? "_total" : "", both, values[f]);
            }
        }
    }
}

/* ---- The daemon ---- */

static void write_workers(struct exposition *e, const struct crew *c)
{
    char label[NUMBER_SIZE];

    begin(e, "worker_connections", GAUGE,
          "Connections of callers, by the worker that serves them.");
    for (size_t i = 0; i < c->n_workers; i++) {
        snprintf(label, sizeof label, "worker=\"%zu\"", i);
        sample_count(e, "", label, crew_worker(c, i)->server->n_connections);
    }
}

static void write_daemon(struct exposition *e, const struct worker *w, const struct metrics *m)
{
    const struct metrics_life *l = &w->crew->life;
    char labels[LABEL_SIZE];

    begin(e, "records_left_out", COUNTER, "Records of calls that the log was spared.");
    sample_count(e, "_total", "", m->totals.records_left_out);
    begin(e, "log_messages_lost", COUNTER, "Log messages that nobody took.");
    sample_count(e, "_total", "", w->log->n_lost);
    begin(e, "start_time_seconds", GAUGE, "When the daemon started, in seconds since 1970.");
    sample_seconds(e, "", "", l->start_time_us);
    begin(e, "uptime_seconds", GAUGE, "How long ago that was.");
    sample_seconds(e, "", "", worker_now_us() - l->start_us);
    begin(e, "draining", GAUGE, "1 while the daemon lets the last calls end.");
    sample_count(e, "", "", w->draining);
    begin(e, "config_time_seconds", GAUGE,
          "When the configuration in force was read, in seconds since 1970.");
    sample_seconds(e, "", "", l->config_time_us);
    begin(e, "config_reload_failed", GAUGE, "1 if the last try to read it again failed.");
    sample_count(e, "", "", l->reload_failed);
    begin(e, "build_info", GAUGE, "1; the labels say what runs.");
    snprintf(labels, sizeof labels, "version=\"%s\",libcurl=\"%s\"", COMPLETIOND_VERSION,
             curl_version_info(CURLVERSION_NOW)->version);
    sample_count(e, "", labels, 1);
}

static void write_all(struct exposition *e, const struct worker *w, const struct metrics *m)
{
    write_calls(e, m);
    write_connections(e, w->crew, m);
    write_workers(e, w->crew);
    begin(e, "attempts", COUNTER, "Attempts to ask an upstream, by how they ended.");
    write_by_outcome(e, m, false);
    begin(e, "retries", COUNTER, "Attempts that were repeated, by how they had ended.");
    write_by_outcome(e, m, true);
    write_tokens(e, m);
    write_numbers(e, m);
    write_reachability(e, w);
    write_endpoints(e, w);
    write_daemon(e, w, m);
}

void exposition_write(const struct worker *w, bool openmetrics, struct buffer *out)
{
    struct exposition e = {.out = out, .openmetrics = openmetrics};
    struct metrics *m = crew_metrics(w->crew);

    if (!m) {
        out->error = -ENOMEM;
        return;
    }
    write_all(&e, w, m);
    metrics_free(m);
    if (openmetrics)
        buffer_append_string(out, "# EOF\n");
}
