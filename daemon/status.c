#include "status.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../proto/unpack.h"
#include "../proto/utf8.h"
#include "../proto/wire.h"
#include "account.h"
#include "call.h"
#include "completion/v1/status.pb-c.h"
#include "config.h"
#include "crew.h"
#include "log.h"
#include "metrics.h"
#include "policy.h"
#include "server.h"

/* Numbers of the repeated fields of GetStatusResponse. */
enum { FIELD_UPSTREAMS = 11, FIELD_USERS = 12, FIELD_MODELS = 13 };
/* Of UpstreamStatus. */
enum { FIELD_ENDPOINTS = 14 };

enum { BASE_URL_SIZE = 512 };

static void append_packed(struct buffer *out, const ProtobufCMessage *message)
{
    uint8_t *p = buffer_reserve(out, protobuf_c_message_get_packed_size(message));

    if (p)
        buffer_commit(out, protobuf_c_message_pack(message, p));
}

static void append_message(struct buffer *out, uint32_t field, const ProtobufCMessage *message)
{
    size_t mark = wire_begin(out, field);

    append_packed(out, message);
    wire_end(out, mark);
}

#define SET(message, field, value)                                                                 \
    do {                                                                                           \
        (message)->has_##field = true;                                                             \
        (message)->field = (value);                                                                \
    } while (0)

static ProtobufCBinaryData text_of(const char *text)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = strlen(text)};
}

/* ---- Upstreams ---- */

static void set_latencies(Completion__V1__UpstreamStatus *s, const struct metrics_upstream *m)
{
    if (m->first_byte.n > 0) {
        SET(s, first_byte_p50_us, (int64_t)metrics_quantile_us(&m->first_byte, 0.50));
        SET(s, first_byte_p95_us, (int64_t)metrics_quantile_us(&m->first_byte, 0.95));
    }
    if (m->duration.n > 0) {
        SET(s, total_p50_us, (int64_t)metrics_quantile_us(&m->duration, 0.50));
        SET(s, total_p95_us, (int64_t)metrics_quantile_us(&m->duration, 0.95));
    }
}

/* What an EndpointStatus points to, while it is being packed. */
struct endpoint_texts {
    char name[BASE_URL_SIZE], base_url[BASE_URL_SIZE];
};

static void set_endpoint(Completion__V1__EndpointStatus *s, const struct endpoint_view *e,
                         struct endpoint_texts *texts)
{
    static const Completion__V1__EndpointState states[] = {
        [ENDPOINT_OK] = COMPLETION__V1__ENDPOINT_STATE__ENDPOINT_STATE_OK,
        [ENDPOINT_RESTING] = COMPLETION__V1__ENDPOINT_STATE__ENDPOINT_STATE_RESTING,
        [ENDPOINT_UNREACHABLE] = COMPLETION__V1__ENDPOINT_STATE__ENDPOINT_STATE_UNREACHABLE,
    };

    completion__v1__endpoint_status__init(s);
    SET(s, name, text_of(log_escape(e->name, texts->name, sizeof texts->name)));
    /* config_endpoint.c lets it have neither a user, a password nor a query. */
    SET(s, base_url, text_of(log_escape(e->base_url, texts->base_url, sizeof texts->base_url)));
    SET(s, state, states[e->state]);
    SET(s, running, (int64_t)e->n_running);
    SET(s, attempts, (int64_t)e->n_asked);
    SET(s, faults, (int64_t)e->n_faults);
}

/* Each is looked at once: meanwhile other workers count. */
static void append_endpoints(struct buffer *out, const struct upstream *u)
{
    Completion__V1__EndpointStatus s;
    struct endpoint_texts texts;

    for (size_t i = 0; i < upstream_n_endpoints(u); i++) {
        struct endpoint_view e = upstream_endpoint_view(u, i);
        set_endpoint(&s, &e, &texts);
        append_message(out, FIELD_ENDPOINTS, &s.base);
    }
}

static void append_upstream(struct buffer *out, const struct upstream *u,
                            const struct metrics_upstream *m)
{
    const struct config_upstream *settings = upstream_settings(u);
    uint64_t n_requests = m->connections_opened + m->connections_reused;
    Completion__V1__UpstreamStatus s = COMPLETION__V1__UPSTREAM_STATUS__INIT;
    Completion__V1__StatusCount counts[METRICS_STATUSES], *calls[METRICS_STATUSES];
    char base_url[BASE_URL_SIZE], name[LOG_VALUE_MAX];

    SET(&s, name, text_of(log_escape(settings->name, name, sizeof name)));
    SET(&s, base_url, text_of(log_escape(settings->base_urls[0], base_url, sizeof base_url)));
    SET(&s, state,
        upstream_is_down(u) ? COMPLETION__V1__UPSTREAM_STATE__UPSTREAM_STATE_UNREACHABLE
                            : COMPLETION__V1__UPSTREAM_STATE__UPSTREAM_STATE_OK);
    SET(&s, running, (int64_t)m->n_running);
    SET(&s, queued, (int64_t)m->n_queued);
    s.calls = calls;
    for (size_t i = 0; i < METRICS_STATUSES; i++) {
        if (m->calls[i] == 0)
            continue;
        completion__v1__status_count__init(&counts[i]);
        SET(&counts[i], status, (int32_t)i);
        SET(&counts[i], n, (int64_t)m->calls[i]);
        calls[s.n_calls++] = &counts[i];
    }
    set_latencies(&s, m);
    SET(&s, connections_opened, (int64_t)m->connections_opened);
    SET(&s, connections_reused, (int64_t)m->connections_reused);
    if (n_requests > 0)
        SET(&s, reuse_ratio, (double)m->connections_reused / (double)n_requests);
    size_t mark = wire_begin(out, FIELD_UPSTREAMS);
    append_packed(out, &s.base);
    append_endpoints(out, u);
    wire_end(out, mark);
}

/* ---- Users ---- */

static void append_user(const struct account_state *account, struct buffer *out)
{
    Completion__V1__UserStatus s = COMPLETION__V1__USER_STATUS__INIT;

    SET(&s, uid, account->uid);
    SET(&s, running, (int64_t)account->n_running);
    SET(&s, queued, (int64_t)account->n_queued);
    SET(&s, connections, (int64_t)account->n_connections);
    SET(&s, memory_used_bytes, (int64_t)account->memory_used);
    if (account->memory_limit < SIZE_MAX)
        SET(&s, memory_limit_bytes, (int64_t)account->memory_limit);
    /* Of what has no limit nothing can be left. */
    if (account->requests_left != INT64_MAX)
        SET(&s, requests_left, account->requests_left);
    if (account->tokens_left != INT64_MAX)
        SET(&s, tokens_left, account->tokens_left);
    append_message(out, FIELD_USERS, &s.base);
}

static bool may_see_all(const struct caller *caller)
{
    return caller->uid == 0 || caller->uid == geteuid();
}

/* ---- Models ---- */

static void append_model(struct buffer *out, const char *model, const struct config_upstream *u)
{
    Completion__V1__ModelStatus s = COMPLETION__V1__MODEL_STATUS__INIT;
    char name[LOG_VALUE_MAX];

    /* A request can't ask for what is not UTF-8. */
    if (!utf8_is_valid(model, strlen(model)))
        return;
    SET(&s, model, text_of(model));
    SET(&s, upstream, text_of(log_escape(u->name, name, sizeof name)));
    append_message(out, FIELD_MODELS, &s.base);
}

static bool is_name(const char *glob)
{
    return !strpbrk(glob, "*?[\\");
}

/* What an upstream's glob leaves of those that policy allows. Of two globs the narrower one cannot
 * be told, unless one takes everything; then it is the upstream's. */
static void append_allowed(struct buffer *out, const char *glob, const struct config_upstream *u,
                           const struct policy *policy)
{
    bool told = false;

    if (!policy->models || is_name(glob)) {
        if (policy_allows_model(policy, glob))
            append_model(out, glob, u);
        return;
    }
    for (char *const *allowed = policy->models; *allowed; allowed++) {
        if (is_name(*allowed) ? fnmatch(glob, *allowed, 0) == 0 : !strcmp(glob, "*")) {
            append_model(out, *allowed, u);
        } else if (!is_name(*allowed) && !told) {
            append_model(out, glob, u);
            told = true;
        }
    }
}

static void append_models(struct buffer *out, const struct worker *w, const struct caller *caller)
{
    struct policy policy = policy_find(w->config, caller);

    for (size_t i = 0; i < w->n_upstreams; i++) {
        const struct config_upstream *u = upstream_settings(w->upstreams[i]);
        for (char *const *glob = u->models; *glob; glob++)
            append_allowed(out, *glob, u, &policy);
    }
}

/* ---- The whole ---- */

static void append_daemon(struct buffer *out, const struct worker *w)
{
    const struct crew *c = w->crew;
    const struct metrics_life *l = &c->life;
    Completion__V1__GetStatusResponse s = COMPLETION__V1__GET_STATUS_RESPONSE__INIT;

    SET(&s, version, text_of(COMPLETIOND_VERSION));
    SET(&s, pid, getpid());
    SET(&s, uptime_us, worker_now_us() - l->start_us);
    SET(&s, draining, w->draining);
    SET(&s, config_time_us, l->config_time_us);
    if (l->reload_time_us > 0) {
        SET(&s, last_reload_time_us, l->reload_time_us);
        SET(&s, last_reload,
            l->reload_failed ? COMPLETION__V1__RELOAD_RESULT__RELOAD_RESULT_FAILED
                             : COMPLETION__V1__RELOAD_RESULT__RELOAD_RESULT_OK);
    }
    SET(&s, connections, (int64_t)crew_n_connections(c));
    SET(&s, memory_used_bytes, (int64_t)memory_used(&c->memory));
    if (memory_limit(&c->memory) < SIZE_MAX)
        SET(&s, memory_limit_bytes, (int64_t)memory_limit(&c->memory));
    append_packed(out, &s.base);
}

/* What there is to say: of all workers, and of the users that the caller may know of. */
struct facts {
    struct metrics *metrics;
    struct account_state *users;
    size_t n_users;
};

static void facts_done(struct facts *f)
{
    metrics_free(f->metrics);
    free(f->users);
}

static int facts_gather(struct call *call, struct facts *f)
{
    struct crew *crew = call->worker->crew;
    int64_t now_us = worker_now_us();

    *f = (struct facts){.metrics = crew_metrics(crew)};
    if (!f->metrics)
        return -ENOMEM;
    if (may_see_all(call->caller))
        return accounts_look(&crew->accounts, now_us, &f->users, &f->n_users);
    f->users = malloc(sizeof *f->users);
    if (!f->users)
        return -ENOMEM;
    *f->users = account_look(call->account, now_us);
    f->n_users = 1;
    return 0;
}

static void reply(struct call *call, const struct facts *f)
{
    const struct worker *w = call->worker;
    struct buffer *out = call_reply_begin(call);

    append_daemon(out, w);
    for (size_t i = 0; i < w->n_upstreams; i++)
        append_upstream(out, w->upstreams[i],
                        metrics_upstream_get(f->metrics, upstream_settings(w->upstreams[i])->name));
    for (size_t i = 0; i < f->n_users; i++)
        append_user(&f->users[i], out);
    append_models(out, w, call->caller);
    call_reply_end(call);
    call_finish(call);
}

void status_run(struct call *call, const uint8_t *message, size_t len)
{
    ProtobufCMessage *unpacked;
    struct unpack_error error;
    struct facts facts = {.n_users = 0};
    int r = unpack_message(UNPACK_REQUEST, &completion__v1__get_status_request__descriptor, message,
                           len, &unpacked, &error);

    if (r == 0) {
        unpack_free(unpacked);
        r = facts_gather(call, &facts);
    }
    if (r == 0)
        reply(call, &facts);
    facts_done(&facts);
    if (r == 0)
        return;
    if (r == -ENOMEM) {
        call_fail_for_memory(call, r, COMPLETION__V1__PHASE__PHASE_LOCAL);
        return;
    }
    call_fail(call, &(struct call_error){
                        .status = GRPC_INVALID_ARGUMENT,
                        .reason = "INVALID_REQUEST",
                        .message = "the request message is malformed",
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                    });
}
