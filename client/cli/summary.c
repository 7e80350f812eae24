/* The daemon's status: from its JSON to what a person reads. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../proto/json_reader.h"
#include "completionctl.h"

/* ---- Reading ---- */

enum kind { NUMBER, FRACTION, TRUTH, TEXT };

/* Where a member of the JSON goes. */
struct member {
    const char *key;
    enum kind kind;
    size_t offset, size;
};

#define MEMBER(type, kind, key, field)                                                             \
    {                                                                                              \
        key, kind, offsetof(struct type, field), sizeof((struct type *)0)->field                   \
    }

static const struct member upstream_members[] = {
    MEMBER(summary_upstream, TEXT, "name", name),
    MEMBER(summary_upstream, TEXT, "base_url", base_url),
    MEMBER(summary_upstream, TEXT, "state", state),
    MEMBER(summary_upstream, NUMBER, "running", running),
    MEMBER(summary_upstream, NUMBER, "queued", queued),
    MEMBER(summary_upstream, NUMBER, "first_byte_p50_us", first_byte_p50),
    MEMBER(summary_upstream, NUMBER, "first_byte_p95_us", first_byte_p95),
    MEMBER(summary_upstream, NUMBER, "total_p50_us", total_p50),
    MEMBER(summary_upstream, NUMBER, "total_p95_us", total_p95),
    MEMBER(summary_upstream, FRACTION, "reuse_ratio", reuse_ratio),
    {0},
};

static const struct member endpoint_members[] = {
    MEMBER(summary_endpoint, TEXT, "name", name),
    MEMBER(summary_endpoint, TEXT, "state", state),
    MEMBER(summary_endpoint, NUMBER, "running", running),
    MEMBER(summary_endpoint, NUMBER, "attempts", attempts),
    MEMBER(summary_endpoint, NUMBER, "faults", faults),
    {0},
};

static const struct member user_members[] = {
    MEMBER(summary_user, NUMBER, "uid", uid),
    MEMBER(summary_user, NUMBER, "running", running),
    MEMBER(summary_user, NUMBER, "queued", queued),
    MEMBER(summary_user, NUMBER, "connections", connections),
    MEMBER(summary_user, NUMBER, "memory_used_bytes", memory_used),
    MEMBER(summary_user, NUMBER, "memory_limit_bytes", memory_limit),
    MEMBER(summary_user, NUMBER, "requests_left", requests_left),
    MEMBER(summary_user, NUMBER, "tokens_left", tokens_left),
    {0},
};

static const struct member summary_members[] = {
    MEMBER(summary, TEXT, "version", version),
    MEMBER(summary, NUMBER, "pid", pid),
    MEMBER(summary, NUMBER, "uptime_us", uptime_us),
    MEMBER(summary, TRUTH, "draining", draining),
    MEMBER(summary, NUMBER, "config_time_us", config_time_us),
    MEMBER(summary, TEXT, "last_reload", last_reload),
    MEMBER(summary, NUMBER, "last_reload_time_us", last_reload_time_us),
    MEMBER(summary, NUMBER, "connections", connections),
    MEMBER(summary, NUMBER, "memory_used_bytes", memory_used),
    MEMBER(summary, NUMBER, "memory_limit_bytes", memory_limit),
    {0},
};

/* Cut to size, and without what a terminal obeys. */
static void copy_text(const struct json_string *s, char *out, size_t size)
{
    struct buffer text = BUFFER_INIT(1 << 20);
    size_t n = 0;

    json_string_append(s, &text);
    const uint8_t *p = buffer_bytes(&text);
    for (size_t i = 0; i < buffer_length(&text) && n < size - 1; i++)
        out[n++] = (char)(p[i] < ' ' || p[i] >= 0x7f ? '?' : p[i]);
    out[n] = '\0';
    buffer_done(&text);
}

static void read_member(struct json_reader *r, const struct json_string *key,
                        const struct member *members, void *object)
{
    struct json_string text;

    for (const struct member *m = members; m->key; m++) {
        char *field = (char *)object + m->offset;
        if (!json_string_equals(key, m->key))
            continue;
        if (m->kind == NUMBER)
            json_read_int64(r, (int64_t *)(void *)field);
        else if (m->kind == FRACTION)
            json_read_double(r, (double *)(void *)field);
        else if (m->kind == TRUTH)
            json_read_bool(r, (bool *)field);
        else if (json_read_string(r, &text))
            copy_text(&text, field, m->size);
        return;
    }
}

/* [{"status":0,"n":5}, ...] */
static void read_calls(struct json_reader *r, struct summary_upstream *u)
{
    struct json_string key;

    if (!json_enter_array(r))
        return;
    while (json_next_element(r)) {
        int64_t status = -1, n = 0;
        if (!json_enter_object(r))
            continue;
        while (json_next_member(r, &key))
            json_read_int64(r, json_string_equals(&key, "status") ? &status : &n);
        *(status == 0 ? &u->ok : &u->failed) += n;
    }
}

/* The array grows by one zeroed element of that size; NULL: out of memory. */
static void *append(void **list, size_t *n, size_t size)
{
    void *longer = realloc(*list, (*n + 1) * size);

    if (!longer)
        return NULL;
    *list = longer;
    return memset((char *)longer + (*n)++ * size, 0, size);
}

/* Of the upstream that is being read. */
static int read_endpoints(struct json_reader *r, struct summary *s)
{
    struct json_string key;

    if (!json_enter_array(r))
        return 0;
    while (json_next_element(r)) {
        struct summary_endpoint *e = append((void **)&s->endpoints, &s->n_endpoints, sizeof *e);
        if (!e)
            return -ENOMEM;
        e->upstream = s->n_upstreams - 1;
        s->upstreams[e->upstream].n_endpoints++;
        if (!json_enter_object(r))
            continue;
        while (json_next_member(r, &key))
            read_member(r, &key, endpoint_members, e);
    }
    return 0;
}

static int read_upstreams(struct json_reader *r, struct summary *s)
{
    struct json_string key;
    int e = 0;

    if (!json_enter_array(r))
        return 0;
    while (e == 0 && json_next_element(r)) {
        struct summary_upstream *u = append((void **)&s->upstreams, &s->n_upstreams, sizeof *u);
        if (!u)
            return -ENOMEM;
        u->first_byte_p50 = u->first_byte_p95 = u->total_p50 = u->total_p95 = -1;
        u->reuse_ratio = -1;
        if (!json_enter_object(r))
            continue;
        while (e == 0 && json_next_member(r, &key)) {
            if (json_string_equals(&key, "calls"))
                read_calls(r, u);
            else if (json_string_equals(&key, "endpoints"))
                e = read_endpoints(r, s);
            else
                read_member(r, &key, upstream_members, u);
        }
    }
    return e;
}

static int read_users(struct json_reader *r, struct summary *s)
{
    struct json_string key;

    if (!json_enter_array(r))
        return 0;
    while (json_next_element(r)) {
        struct summary_user *u = append((void **)&s->users, &s->n_users, sizeof *u);
        if (!u)
            return -ENOMEM;
        u->memory_limit = u->requests_left = u->tokens_left = INT64_MAX;
        if (!json_enter_object(r))
            continue;
        while (json_next_member(r, &key))
            read_member(r, &key, user_members, u);
    }
    return 0;
}

static int read_summary(const char *json, size_t length, struct summary *s)
{
    struct json_reader r;
    struct json_string key;
    int e = 0;

    json_reader_init(&r, json, length);
    if (!json_enter_object(&r))
        return -EBADMSG;
    while (e == 0 && json_next_member(&r, &key)) {
        if (json_string_equals(&key, "upstreams"))
            e = read_upstreams(&r, s);
        else if (json_string_equals(&key, "users"))
            e = read_users(&r, s);
        else
            read_member(&r, &key, summary_members, s);
    }
    return e < 0 ? e : json_reader_end(&r) ? 0 : -EBADMSG;
}

int summary_get(completion_client *client, int64_t timeout_ms, struct summary *ret, char **ret_json,
                completion_error *error)
{
    size_t length = 0;
    char *json = NULL;
    int r = completion_client_status_json(client, timeout_ms, &json, &length, error);

    *ret = (struct summary){.memory_limit = INT64_MAX};
    if (r < 0 && completion_error_status(error) == COMPLETION_UNIMPLEMENTED) {
        r = completion_client_check(client, timeout_ms, error);
        ret->is_health_only = true;
        ret->draining = r == 0;
    } else if (r == 0) {
        r = read_summary(json, length, ret);
    }
    if (r >= 0 && ret_json)
        *ret_json = json;
    else
        free(json);
    if (r < 0)
        summary_done(ret);
    return r < 0 ? r : 0;
}

void summary_done(struct summary *s)
{
    free(s->upstreams);
    free(s->endpoints);
    free(s->users);
    s->upstreams = NULL;
    s->endpoints = NULL;
    s->users = NULL;
    s->n_upstreams = s->n_endpoints = s->n_users = 0;
}

/* ---- Printing ---- */

static const char *duration(int64_t us, char out[static TABLE_CELL])
{
    if (us < 0)
        snprintf(out, TABLE_CELL, "-");
    else if (us < 1000)
        snprintf(out, TABLE_CELL, "%d us", (int)us);
    else if (us < 1000000)
        snprintf(out, TABLE_CELL, "%.3g ms", (double)us / 1e3);
    else
        snprintf(out, TABLE_CELL, "%.3g s", (double)us / 1e6);
    return out;
}

static const char *long_duration(int64_t us, char out[static TABLE_CELL])
{
    long long s = us / 1000000;

    if (s < 60)
        snprintf(out, TABLE_CELL, "%llds", s);
    else if (s < 3600)
        snprintf(out, TABLE_CELL, "%lldmin %llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, TABLE_CELL, "%lldh %lldmin", s / 3600, s / 60 % 60);
    else
        snprintf(out, TABLE_CELL, "%lldd %lldh", s / 86400, s / 3600 % 24);
    return out;
}

static const char *bytes(int64_t n, char out[static TABLE_CELL])
{
    if (n == INT64_MAX)
        snprintf(out, TABLE_CELL, "no limit");
    else if (n < 1 << 20)
        snprintf(out, TABLE_CELL, "%.1f KiB", (double)n / 1024);
    else
        snprintf(out, TABLE_CELL, "%.1f MiB", (double)n / (1 << 20));
    return out;
}

static const char *left(int64_t n, char out[static TABLE_CELL])
{
    if (n == INT64_MAX)
        snprintf(out, TABLE_CELL, "-");
    else
        snprintf(out, TABLE_CELL, "%lld", (long long)n);
    return out;
}

static const char *moment(int64_t us, char out[static TABLE_CELL])
{
    time_t seconds = (time_t)(us / 1000000);
    struct tm tm;

    if (!localtime_r(&seconds, &tm) || !strftime(out, TABLE_CELL, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(out, TABLE_CELL, "?");
    return out;
}

static void print_daemon(const struct summary *s, FILE *out)
{
    char a[TABLE_CELL], b[TABLE_CELL];

    fprintf(out, "version %s, process %lld, running for %s\n", s->version, (long long)s->pid,
            long_duration(s->uptime_us, a));
    fprintf(out, "configuration read %s", moment(s->config_time_us, a));
    if (s->last_reload_time_us > 0)
        fprintf(out, "; the reload of %s %s", moment(s->last_reload_time_us, a),
                strcmp(s->last_reload, "RELOAD_RESULT_FAILED") ? "went well" : "FAILED");
    fprintf(out, "\nconnections: %lld, memory: %s of %s\n", (long long)s->connections,
            bytes(s->memory_used, a), bytes(s->memory_limit, b));
}

/* Calls that have ended in each second since then; "" if there is no then. */
static const char *rate(const struct summary *s, const struct summary *before,
                        const struct summary_upstream *u, char out[static TABLE_CELL])
{
    *out = '\0';
    for (size_t i = 0; before && i < before->n_upstreams; i++) {
        const struct summary_upstream *b = &before->upstreams[i];
        if (!strcmp(b->name, u->name) && s->uptime_us > before->uptime_us)
            snprintf(out, TABLE_CELL, "%.1f",
                     (double)(u->ok + u->failed - b->ok - b->failed) * 1e6 /
                         (double)(s->uptime_us - before->uptime_us));
    }
    return out;
}

static void print_upstreams(const struct summary *s, const struct summary *before, bool colours,
                            FILE *out)
{
    static const char *const titles[] = {"UPSTREAM", "STATE",  "BASE URL", "RUNNING",    "QUEUED",
                                         "OK",       "FAILED", "CALLS/S",  "FIRST BYTE", "p95",
                                         "TOTAL",    "p95",    "REUSED"};
    struct table t = {.n_columns = sizeof titles / sizeof *titles, .n_left = 3, .colours = colours};
    char cell[TABLE_CELL];

    for (size_t i = 0; i < t.n_columns; i++)
        table_add(&t, "%s", titles[i]);
    for (size_t i = 0; i < s->n_upstreams; i++) {
        const struct summary_upstream *u = &s->upstreams[i];
        table_add(&t, "%s", u->name);
        table_add(&t, "%s", strcmp(u->state, "UPSTREAM_STATE_UNREACHABLE") ? "ok" : "unreachable");
        if (u->n_endpoints > 1)
            table_add(&t, "%s +%zu", u->base_url, u->n_endpoints - 1);
        else
            table_add(&t, "%s", u->base_url);
        table_add(&t, "%lld", (long long)u->running);
        table_add(&t, "%lld", (long long)u->queued);
        table_add(&t, "%lld", (long long)u->ok);
        table_add(&t, "%lld", (long long)u->failed);
        table_add(&t, "%s", before ? rate(s, before, u, cell) : "-");
        table_add(&t, "%s", duration(u->first_byte_p50, cell));
        table_add(&t, "%s", duration(u->first_byte_p95, cell));
        table_add(&t, "%s", duration(u->total_p50, cell));
        table_add(&t, "%s", duration(u->total_p95, cell));
        if (u->reuse_ratio < 0)
            table_add(&t, "-");
        else
            table_add(&t, "%.0f %%", u->reuse_ratio * 100);
    }
    table_print(&t, out);
    table_done(&t);
}

/* Of upstreams that have several. */
static void print_endpoints(const struct summary *s, bool colours, FILE *out)
{
    static const char *const titles[] = {"ENDPOINT", "UPSTREAM", "STATE",
                                         "RUNNING",  "ATTEMPTS", "FAULTS"};
    struct table t = {.n_columns = sizeof titles / sizeof *titles, .n_left = 3, .colours = colours};

    for (size_t i = 0; i < t.n_columns; i++)
        table_add(&t, "%s", titles[i]);
    for (size_t i = 0; i < s->n_endpoints; i++) {
        const struct summary_endpoint *e = &s->endpoints[i];
        const struct summary_upstream *u = &s->upstreams[e->upstream];
        if (u->n_endpoints < 2)
            continue;
        table_add(&t, "%s", e->name);
        table_add(&t, "%s", u->name);
        table_add(&t, "%s",
                  !strcmp(e->state, "ENDPOINT_STATE_UNREACHABLE") ? "unreachable"
                  : !strcmp(e->state, "ENDPOINT_STATE_RESTING")   ? "resting"
                                                                  : "ok");
        table_add(&t, "%lld", (long long)e->running);
        table_add(&t, "%lld", (long long)e->attempts);
        table_add(&t, "%lld", (long long)e->faults);
    }
    table_print(&t, out);
    table_done(&t);
    fputc('\n', out);
}

static void print_users(const struct summary *s, bool colours, FILE *out)
{
    static const char *const titles[] = {"USER",   "RUNNING",      "QUEUED",        "CONNECTIONS",
                                         "MEMORY", "MEMORY LIMIT", "REQUESTS LEFT", "TOKENS LEFT"};
    struct table t = {.n_columns = sizeof titles / sizeof *titles, .colours = colours};
    char cell[TABLE_CELL];

    for (size_t i = 0; i < t.n_columns; i++)
        table_add(&t, "%s", titles[i]);
    for (size_t i = 0; i < s->n_users; i++) {
        const struct summary_user *u = &s->users[i];
        table_add(&t, "%lld", (long long)u->uid);
        table_add(&t, "%lld", (long long)u->running);
        table_add(&t, "%lld", (long long)u->queued);
        table_add(&t, "%lld", (long long)u->connections);
        table_add(&t, "%s", bytes(u->memory_used, cell));
        table_add(&t, "%s", bytes(u->memory_limit, cell));
        table_add(&t, "%s", left(u->requests_left, cell));
        table_add(&t, "%s", left(u->tokens_left, cell));
    }
    table_print(&t, out);
    table_done(&t);
}

void summary_print(const struct summary *s, const struct summary *before, const char *socket,
                   bool colours, FILE *out)
{
    if (s->draining)
        fprintf(out, "completiond on %s is shutting down\n", socket);
    else
        fprintf(out, "completiond is serving on %s\n", socket);
    if (s->is_health_only)
        return;
    print_daemon(s, out);
    fputc('\n', out);
    print_upstreams(s, before, colours, out);
    fputc('\n', out);
    if (s->n_endpoints > s->n_upstreams)
        print_endpoints(s, colours, out);
    print_users(s, colours, out);
}
