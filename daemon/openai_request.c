/*
 * One table says which members there are, which field each has, and how it is read. A member is
 * written where it is read: the order in protobuf is free.
 */
#include "openai_request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "json_reader.h"
#include "wire.h"

struct reading {
    struct json_reader json;
    struct buffer *out;
    struct buffer extra; /* an object that is not closed yet; empty: no member */
    struct translate_refusal *refusal;
    bool stream;
    int error;
};

/* A member with a field. take() is false if the value is not what `wanted` says; it may have
 * consumed and written a part of it. */
struct member {
    const char *name;
    uint32_t field;
    bool (*take)(struct reading *q, uint32_t field);
    const char *wanted;
};

static void refuse(struct reading *q, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void refuse(struct reading *q, const char *field, const char *format, ...)
{
    struct translate_refusal *r = q->refusal;
    va_list args;
    int n;

    if (q->error)
        return;
    q->error = -EINVAL;
    r->status = GRPC_INVALID_ARGUMENT;
    snprintf(r->field, sizeof r->field, "%s", field);
    n = *field ? snprintf(r->text, sizeof r->text, "%s: ", field) : 0;
    va_start(args, format);
    vsnprintf(r->text + n, sizeof r->text - (size_t)n, format, args);
    va_end(args);
}

/* ---- Values ---- */

static void put_string(struct buffer *out, uint32_t field, const struct json_string *s)
{
    size_t mark = wire_begin(out, field);

    json_string_append(s, out);
    wire_end(out, mark);
}

static bool take_string(struct reading *q, uint32_t field)
{
    struct json_string s;

    if (!json_read_string(&q->json, &s))
        return false;
    put_string(q->out, field, &s);
    return true;
}

static bool take_int32(struct reading *q, uint32_t field)
{
    int32_t value;

    if (!json_read_int32(&q->json, &value))
        return false;
    wire_append_int(q->out, field, value);
    return true;
}

static bool take_int64(struct reading *q, uint32_t field)
{
    int64_t value;

    if (!json_read_int64(&q->json, &value))
        return false;
    wire_append_int(q->out, field, value);
    return true;
}

static bool take_double(struct reading *q, uint32_t field)
{
    double value;

    if (!json_read_double(&q->json, &value))
        return false;
    wire_append_double(q->out, field, value);
    return true;
}

static bool take_bool(struct reading *q, uint32_t field)
{
    bool value;

    if (!json_read_bool(&q->json, &value))
        return false;
    wire_append_int(q->out, field, value);
    return true;
}

static bool take_stream(struct reading *q, uint32_t field)
{
    (void)field;
    return json_read_bool(&q->json, &q->stream);
}

/* ---- Lists ---- */

/* The rest of an array that was entered, as field 1 of the message `field`. */
static bool take_strings(struct reading *q, uint32_t field)
{
    size_t mark = wire_begin(q->out, field);

    do
        if (!take_string(q, 1))
            return false;
    while (json_next_element(&q->json));
    wire_end(q->out, mark);
    return true;
}

static bool take_tokens(struct reading *q, uint32_t field)
{
    size_t mark = wire_begin(q->out, field), ids = wire_begin(q->out, 1);
    int32_t id;

    do {
        if (!json_read_int32(&q->json, &id))
            return false;
        wire_append_varint(q->out, (uint64_t)id);
    } while (json_next_element(&q->json));
    wire_end(q->out, ids);
    wire_end(q->out, mark);
    return true;
}

static bool take_token_arrays(struct reading *q, uint32_t field)
{
    size_t mark = wire_begin(q->out, field);

    do
        if (!json_enter_array(&q->json) || !json_next_element(&q->json) || !take_tokens(q, 1))
            return false;
    while (json_next_element(&q->json));
    wire_end(q->out, mark);
    return true;
}

/* The four forms have fields of their own, in this order. */
static bool take_prompt(struct reading *q, uint32_t field)
{
    if (json_peek(&q->json) == JSON_STRING)
        return take_string(q, field);
    if (!json_enter_array(&q->json) || !json_next_element(&q->json))
        return false;
    switch (json_peek(&q->json)) {
    case JSON_STRING:
        return take_strings(q, field + 1);
    case JSON_NUMBER:
        return take_tokens(q, field + 2);
    case JSON_ARRAY:
        return take_token_arrays(q, field + 3);
    default:
        return false;
    }
}

static bool take_stop(struct reading *q, uint32_t field)
{
    if (json_peek(&q->json) == JSON_STRING)
        return take_string(q, field);
    return json_enter_array(&q->json) && json_next_element(&q->json) && take_strings(q, field + 1);
}

/* ---- Objects ---- */

/* A token id as the name of a member. */
static bool read_token(const struct json_string *key, int32_t *ret)
{
    char text[16], *end;

    if (key->len == 0 || key->len >= sizeof text || key->has_escapes)
        return false;
    memcpy(text, key->data, key->len);
    text[key->len] = '\0';
    if (strspn(text, "-0123456789") != key->len)
        return false;
    long value = strtol(text, &end, 10);
    if (*end || value < INT32_MIN || value > INT32_MAX)
        return false;
    *ret = (int32_t)value;
    return true;
}

static bool take_logit_bias(struct reading *q, uint32_t field)
{
    struct json_string key;
    int32_t token;

    if (!json_enter_object(&q->json))
        return false;
    while (json_next_member(&q->json, &key)) {
        if (!read_token(&key, &token))
            return false;
        size_t mark = wire_begin(q->out, field);
        wire_append_int(q->out, 1, token);
        if (!take_double(q, 2))
            return false;
        wire_end(q->out, mark);
    }
    return true;
}

static bool take_stream_options(struct reading *q, uint32_t field)
{
    struct json_string key;

    if (!json_enter_object(&q->json))
        return false;
    size_t mark = wire_begin(q->out, field);
    while (json_next_member(&q->json, &key)) {
        uint32_t option = json_string_equals(&key, "include_obfuscation") ? 1
                          : json_string_equals(&key, "include_usage")     ? 2
                                                                          : 0;
        if (option == 0 || (!json_read_null(&q->json) && !take_bool(q, option)))
            return false;
    }
    wire_end(q->out, mark);
    return true;
}

/* ---- The request ---- */

static const struct member members[] = {
    {"model", 1, take_string, "a string"},
    {"prompt", 2, take_prompt,
     "a string, or a list, which is not empty, of strings, of token ids, or of lists of token ids"},
    {"best_of", 6, take_int32, "an integer"},
    {"echo", 7, take_bool, "true or false"},
    {"frequency_penalty", 8, take_double, "a number"},
    {"logit_bias", 9, take_logit_bias, "an object of token ids and numbers"},
    {"logprobs", 10, take_int32, "an integer"},
    {"max_tokens", 11, take_int32, "an integer"},
    {"n", 12, take_int32, "an integer"},
    {"presence_penalty", 13, take_double, "a number"},
    {"seed", 14, take_int64, "an integer of 64 bits"},
    {"stop", 15, take_stop, "a string, or a list of one to four strings"},
    {"stream", 0, take_stream, "true or false"},
    {"stream_options", 17, take_stream_options,
     "an object of include_usage and include_obfuscation, each true or false"},
    {"suffix", 18, take_string, "a string"},
    {"temperature", 19, take_double, "a number"},
    {"top_p", 20, take_double, "a number"},
    {"user", 21, take_string, "a string"},
};

enum { N_MEMBERS = sizeof members / sizeof *members, FIELD_EXTRA_BODY = 22 };

static size_t find_member(const struct json_string *key)
{
    size_t i = 0;

    while (i < N_MEMBERS && !json_string_equals(key, members[i].name))
        i++;
    return i;
}

static void keep_extra(struct reading *q, const struct json_string *key)
{
    struct json_slice value;

    if (!json_skip(&q->json, &value))
        return;
    buffer_append_byte(&q->extra, buffer_length(&q->extra) > 0 ? ',' : '{');
    buffer_append(&q->extra, key->data - 1, key->len + 2); /* with its quotes */
    buffer_append_byte(&q->extra, ':');
    buffer_append(&q->extra, value.data, value.len);
}

static void read_member(struct reading *q, const struct json_string *key, uint32_t *seen)
{
    size_t i = find_member(key);

    if (i == N_MEMBERS) {
        keep_extra(q, key);
        return;
    }
    if (*seen & UINT32_C(1) << i)
        refuse(q, members[i].name, "is there twice; give it once");
    *seen |= UINT32_C(1) << i;
    if (!json_read_null(&q->json) && !members[i].take(q, members[i].field) &&
        !json_reader_error(&q->json, NULL))
        refuse(q, members[i].name, "must be %s", members[i].wanted);
}

static void read_request(struct reading *q)
{
    struct json_string key;
    uint32_t seen = 0;
    size_t offset;

    if (json_enter_object(&q->json))
        while (!q->error && json_next_member(&q->json, &key))
            read_member(q, &key, &seen);
    else if (!json_reader_error(&q->json, NULL))
        refuse(q, "", "the request's body is not a JSON object");
    if (!q->error)
        json_reader_end(&q->json);
    const char *error = json_reader_error(&q->json, &offset);
    if (error)
        refuse(q, "", "the request's body is not valid JSON: %s at byte %zu", error, offset);
    if (buffer_length(&q->extra) == 0)
        return;
    buffer_append_byte(&q->extra, '}');
    if (!q->extra.error)
        wire_append_bytes(q->out, FIELD_EXTRA_BODY, buffer_bytes(&q->extra),
                          buffer_length(&q->extra));
}

int openai_request_read(const void *json, size_t len, struct buffer *message, bool *ret_stream,
                        struct translate_refusal *ret_refusal)
{
    struct reading q = {
        .out = message,
        .extra = BUFFER_INIT_IN(len + 2, message->memory),
        .refusal = ret_refusal,
    };

    json_reader_init(&q.json, json, len);
    read_request(&q);
    int error = q.error ? q.error : q.extra.error ? q.extra.error : message->error;
    buffer_done(&q.extra);
    if (error == 0)
        *ret_stream = q.stream;
    return error;
}
