#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../../proto/json_reader.h"
#include "batch.h"

/* A bit for each parameter, and this one. */
enum { STOP_BIT = N_PARAMETERS };

/* Below that of calls that somebody waits for. */
enum { BATCH_URGENCY = 5 };

struct reading {
    const struct create_options *options;
    struct entry *entry;
    uint32_t seen;
    struct buffer extra; /* the members that the API does not have, each with a comma behind */
};

/* ---- The form of a line ---- */

/* OpenAI's batch files have the request in "body", beside other members. False: this is no such
 * line. */
static bool find_body(const char *line, size_t length, struct json_slice *ret, bool *ret_is_other)
{
    struct json_reader r;
    struct json_string key, url;
    bool found = false, is_other = false;

    json_reader_init(&r, line, length);
    if (json_enter_object(&r))
        while (json_next_member(&r, &key)) {
            if (json_string_equals(&key, "body") && json_peek(&r) == JSON_OBJECT)
                found = json_skip(&r, ret);
            else if (json_string_equals(&key, "url") && json_read_string(&r, &url))
                is_other = !json_string_equals(&url, "/v1/completions");
        }
    *ret_is_other = is_other;
    return found && json_reader_end(&r);
}

completion_text entry_custom_id(const char *line, size_t length)
{
    struct json_reader r;
    struct json_string key;
    struct json_slice id = {0};

    json_reader_init(&r, line, length);
    if (json_enter_object(&r))
        while (json_next_member(&r, &key))
            if (json_string_equals(&key, "custom_id") && json_peek(&r) != JSON_NULL)
                json_skip(&r, &id);
    if (!json_reader_end(&r))
        return (completion_text){0};
    return (completion_text){id.data, id.len};
}

/* ---- Members ---- */

static void refuse(struct entry *e, const struct json_string *param, const char *why)
{
    size_t n = param && param->len < sizeof e->param ? param->len : 0;

    /* A name with an escape is none of ours. */
    if (n > 0 && !param->has_escapes)
        memcpy(e->param, param->data, n);
    snprintf(e->why, sizeof e->why, "%s", why);
}

static void keep_extra(struct reading *g, const struct json_string *key,
                       const struct json_slice *value)
{
    buffer_append_byte(&g->extra, '"');
    buffer_append(&g->extra, key->data, key->len);
    buffer_append_string(&g->extra, "\":");
    buffer_append(&g->extra, value->data, value->len);
    buffer_append_byte(&g->extra, ',');
}

static int keep_members(struct reading *g, struct json_reader *r)
{
    struct json_string key;
    struct json_slice value;

    if (!json_enter_object(r))
        return -EINVAL;
    while (json_next_member(r, &key))
        if (json_skip(r, &value))
            keep_extra(g, &key, &value);
    return 0;
}

/* 0 or negative errno, and why. */
static int read_member(struct reading *g, struct json_reader *r, const struct json_string *key,
                       const char **ret_why)
{
    completion_request *request = g->entry->request;
    size_t parameter = parameter_find_member(key);
    bool is_on;

    if (parameter < N_PARAMETERS)
        g->seen |= 1u << parameter;
    else if (json_string_equals(key, "stop"))
        g->seen |= 1u << STOP_BIT;
    /* Not sent, whatever the default. */
    if (json_read_null(r))
        return 0;
    if (parameter < N_PARAMETERS)
        return parameter_read(request, parameter, r, ret_why);
    if (json_string_equals(key, "prompt"))
        return prompt_read(request, r, ret_why);
    if (json_string_equals(key, "stop"))
        return stop_read(request, r, ret_why);
    *ret_why = "a batch has whole answers";
    if (json_string_equals(key, "stream"))
        return json_read_bool(r, &is_on) && !is_on ? 0 : -EINVAL;
    if (json_string_equals(key, "stream_options"))
        return -EINVAL;
    *ret_why = "an object is wanted";
    if (json_string_equals(key, "extra_body"))
        return keep_members(g, r);
    /* A request whose members would all be missed. */
    if (json_string_equals(key, "body") && json_peek(r) != JSON_OBJECT)
        return -EINVAL;
    struct json_slice value;
    if (!json_string_equals(key, "custom_id") && json_skip(r, &value))
        keep_extra(g, key, &value);
    return 0;
}

static int read_members(struct reading *g, const char *text, size_t length)
{
    const char *why = "a JSON object is wanted";
    struct json_reader r;
    struct json_string key;
    size_t offset;
    int e = 0;

    json_reader_init(&r, text, length);
    /* What it is instead may be no JSON at all. */
    if (!json_enter_object(&r)) {
        json_skip(&r, NULL);
        refuse(g->entry, NULL, why);
        e = -EINVAL;
    }
    while (e == 0 && json_next_member(&r, &key)) {
        e = read_member(g, &r, &key, &why);
        /* What the text has wrong comes before what it means. */
        if (e < 0 && !json_reader_error(&r, NULL))
            refuse(g->entry, &key, why);
    }
    if (e == 0 && !json_reader_end(&r))
        e = -EINVAL;
    const char *error = json_reader_error(&r, &offset);
    if (error)
        snprintf(g->entry->why, sizeof g->entry->why, "not JSON, at byte %zu: %s", offset, error);
    return e;
}

/* ---- What the line lacks ---- */

static bool has_member(const char *object, size_t length, const struct json_string *name)
{
    struct json_reader r;
    struct json_string key;

    json_reader_init(&r, object, length);
    if (json_enter_object(&r))
        while (json_next_member(&r, &key))
            if (key.len == name->len && !memcmp(key.data, name->data, key.len))
                return true;
    return false;
}

/* The line's members first, then those of --extra-body that it lacks. */
static int set_extra(struct reading *g, const char *body, size_t length, const char *more)
{
    struct buffer object = BUFFER_INIT(2 * LINE_MAX_BYTES);
    struct json_reader r;
    struct json_string key;
    struct json_slice value;

    if (more) {
        json_reader_init(&r, more, strlen(more));
        if (json_enter_object(&r))
            while (json_next_member(&r, &key))
                if (json_skip(&r, &value) && !has_member(body, length, &key))
                    keep_extra(g, &key, &value);
    }
    size_t n = buffer_length(&g->extra);
    if (n == 0)
        return g->extra.error;
    buffer_append_byte(&object, '{');
    buffer_append(&object, buffer_bytes(&g->extra), n - 1);
    buffer_append_byte(&object, '}');
    int e = object.error     ? object.error
            : g->extra.error ? g->extra.error
                             : completion_request_set_extra_body(g->entry->request,
                                                                 (char *)buffer_bytes(&object),
                                                                 buffer_length(&object));
    buffer_done(&object);
    return e;
}

static int add_defaults(struct reading *g, const char *body, size_t length)
{
    const struct create_options *o = g->options;
    const char *more = NULL, *why;
    int e = 0;

    for (size_t i = 0; e == 0 && i < o->n_defaults; i++) {
        const struct given *d = &o->defaults[i];
        if (!strcmp(parameter_name(d->parameter), "extra-body"))
            more = d->value;
        else if (!(g->seen & 1u << d->parameter))
            e = parameter_set(g->entry->request, d->parameter, d->value, &why);
        if (!strcmp(parameter_name(d->parameter), "model"))
            g->seen |= 1u << d->parameter;
    }
    if (e == 0 && !(g->seen & 1u << STOP_BIT))
        e = stops_set(g->entry->request, o->stops, o->n_stops);
    return e < 0 ? e : set_extra(g, body, length, more);
}

static int read_body(struct reading *g, const char *text, size_t length)
{
    static const struct json_string model = {.data = "model", .len = 5};
    int e = read_members(g, text, length);

    if (e < 0)
        return e;
    completion_request_set_priority(g->entry->request, BATCH_URGENCY);
    e = add_defaults(g, text, length);
    if (e == -EINVAL || e == -EMSGSIZE)
        refuse(g->entry, NULL, "longer than the 4 MiB that a request may have");
    if (e == 0 && !(g->seen & 1u << parameter_find("model"))) {
        refuse(g->entry, &model, "missing; --model gives one to all lines");
        e = -EINVAL;
    }
    return e;
}

int entry_read(const char *line, size_t length, const struct create_options *o, struct entry *ret)
{
    struct reading g = {.options = o, .entry = ret, .extra = BUFFER_INIT(2 * LINE_MAX_BYTES)};
    struct json_slice body = {line, length};
    static const struct json_string url = {.data = "url", .len = 3};
    bool is_other;
    int e = -EINVAL;

    *ret = (struct entry){0};
    if (completion_request_new(&ret->request) < 0)
        return -ENOMEM;
    if (!find_body(line, length, &body, &is_other))
        e = read_body(&g, line, length);
    else if (is_other)
        refuse(ret, &url, "only /v1/completions is there");
    else
        e = read_body(&g, body.data, body.len);
    buffer_done(&g.extra);
    if (e < 0)
        ret->request = completion_request_free(ret->request);
    return e == -ENOMEM ? e : 0;
}
