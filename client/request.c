/*
 * Requests, kept as the protobuf bytes that they will be. A scalar that is set again is appended
 * and what was set before is cut out: it would be sent, counted and checked like the one that
 * holds. Lists of prompts and stops are kept apart, because they grow.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/wire.h"
#include "internal.h"

/* Field numbers of completion.proto. */
enum {
    MODEL = 1,
    PROMPT_STRING = 2,
    PROMPT_STRINGS = 3,
    PROMPT_TOKENS = 4,
    PROMPT_TOKEN_ARRAYS = 5,
    BEST_OF = 6,
    ECHO = 7,
    FREQUENCY_PENALTY = 8,
    LOGIT_BIAS = 9,
    LOGPROBS = 10,
    MAX_TOKENS = 11,
    N = 12,
    PRESENCE_PENALTY = 13,
    SEED = 14,
    STOP_STRING = 15,
    STOP_STRINGS = 16,
    STREAM_OPTIONS = 17,
    SUFFIX = 18,
    TEMPERATURE = 19,
    TOP_P = 20,
    USER = 21,
    EXTRA_BODY = 22,
};

enum { TEXT_MAX_BYTES = 4 << 20 };

/* A oneof: which field it is, and that field's bytes so far. */
struct choice {
    uint32_t field;
    struct buffer bytes;
};

struct completion_request {
    struct buffer fields, stream_options;
    struct choice prompt, stop;
    char *key;
    int urgency;
};

EXPORT int completion_request_new(completion_request **ret)
{
    completion_request *r = ret ? calloc(1, sizeof *r) : NULL;

    if (!r)
        return ret ? -ENOMEM : -EINVAL;
    r->fields = r->stream_options = r->prompt.bytes = r->stop.bytes =
        BUFFER_INIT(REQUEST_MAX_BYTES);
    r->urgency = URGENCY_UNSET;
    *ret = r;
    return 0;
}

EXPORT completion_request *completion_request_free(completion_request *r)
{
    if (!r)
        return NULL;
    buffer_done(&r->fields);
    buffer_done(&r->stream_options);
    buffer_done(&r->prompt.bytes);
    buffer_done(&r->stop.bytes);
    if (r->key)
        explicit_bzero(r->key, strlen(r->key));
    free(r->key);
    free(r);
    return NULL;
}

/* Buffers keep their errors; a setter reports and clears it, so that the request stays usable. */
static int settle(struct buffer *b, size_t length_before)
{
    int r = b->error;

    if (r < 0) {
        b->error = 0;
        buffer_truncate(b, length_before);
    }
    return r == -EMSGSIZE ? -EINVAL : r;
}

/* Cuts the field out of the first `length` bytes, where it is at most once. */
static void cut_field(struct buffer *b, uint32_t field, size_t length)
{
    const uint8_t *p = buffer_bytes(b), *end = p + length;
    struct wire_field found;

    for (size_t at = 0; at < length; at = (size_t)(p - buffer_bytes(b))) {
        if (wire_next(&p, end, &found) <= 0)
            return;
        if (found.number != field)
            continue;
        size_t behind = (size_t)(p - buffer_bytes(b));
        memmove(buffer_bytes(b) + at, p, buffer_length(b) - behind);
        buffer_truncate(b, buffer_length(b) - (behind - at));
        return;
    }
}

/* settle(), and the field that was appended takes the place of the one before. */
static int replace(struct buffer *b, uint32_t field, size_t length_before)
{
    int r = settle(b, length_before);

    if (r == 0 && length_before > 0)
        cut_field(b, field, length_before);
    return r;
}

static bool take_length(const char *text, size_t *length)
{
    if (!text && *length != 0)
        return false;
    if (*length == COMPLETION_ZERO_TERMINATED)
        *length = strlen(text);
    return *length <= TEXT_MAX_BYTES;
}

static int set_text(completion_request *r, uint32_t field, const char *text, size_t length)
{
    if (!r || !take_length(text, &length))
        return -EINVAL;
    size_t before = buffer_length(&r->fields);
    wire_append_bytes(&r->fields, field, text, length);
    return replace(&r->fields, field, before);
}

static int set_int(completion_request *r, uint32_t field, int64_t value)
{
    if (!r)
        return -EINVAL;
    size_t before = buffer_length(&r->fields);
    wire_append_int(&r->fields, field, value);
    return replace(&r->fields, field, before);
}

static int set_double(completion_request *r, uint32_t field, double value)
{
    if (!r)
        return -EINVAL;
    size_t before = buffer_length(&r->fields);
    wire_append_double(&r->fields, field, value);
    return replace(&r->fields, field, before);
}

/* Where to write a field of the oneof: behind its elements if one is added, else to a new buffer
 * that takes the place of what was set before, once that has succeeded. */
static struct buffer *choice_begin(struct choice *c, uint32_t field, bool add, struct buffer *fresh)
{
    *fresh = BUFFER_INIT(REQUEST_MAX_BYTES);
    return add && c->field == field ? &c->bytes : fresh;
}

static int choice_end(struct choice *c, uint32_t field, struct buffer *b, size_t length_before)
{
    int r = settle(b, length_before);

    if (b == &c->bytes)
        return r;
    if (r < 0) {
        buffer_done(b);
        return r;
    }
    buffer_done(&c->bytes);
    c->bytes = *b;
    c->field = field;
    return 0;
}

static int choose_text(completion_request *r, struct choice *c, uint32_t field, bool add,
                       const char *text, size_t length)
{
    struct buffer fresh;

    if (!r || !take_length(text, &length))
        return -EINVAL;
    struct buffer *b = choice_begin(c, field, add, &fresh);
    size_t before = buffer_length(b);
    if (add)
        wire_append_bytes(b, 1, text, length);
    else
        buffer_append(b, text, length);
    return choice_end(c, field, b, before);
}

static int choose_tokens(completion_request *r, uint32_t field, bool add, const int32_t *ids,
                         size_t n)
{
    if (!r || (!ids && n > 0) || n > TEXT_MAX_BYTES)
        return -EINVAL;
    struct buffer fresh, *b = choice_begin(&r->prompt, field, add, &fresh);
    size_t before = buffer_length(b);
    size_t array = add ? wire_begin(b, 1) : 0;
    size_t packed = wire_begin(b, 1);
    for (size_t i = 0; i < n; i++)
        wire_append_varint(b, (uint64_t)(int64_t)ids[i]);
    wire_end(b, packed);
    if (add)
        wire_end(b, array);
    return choice_end(&r->prompt, field, b, before);
}

static int set_stream_option(completion_request *r, uint32_t field, int value)
{
    if (!r)
        return -EINVAL;
    size_t before = buffer_length(&r->stream_options);
    wire_append_int(&r->stream_options, field, value != 0);
    return replace(&r->stream_options, field, before);
}

static void pack_choice(const struct choice *c, struct buffer *out)
{
    if (c->field)
        wire_append_bytes(out, c->field, buffer_bytes(&c->bytes), buffer_length(&c->bytes));
}

void request_pack(const completion_request *r, struct buffer *out)
{
    buffer_append(out, buffer_bytes(&r->fields), buffer_length(&r->fields));
    pack_choice(&r->prompt, out);
    pack_choice(&r->stop, out);
    if (buffer_length(&r->stream_options))
        wire_append_bytes(out, STREAM_OPTIONS, buffer_bytes(&r->stream_options),
                          buffer_length(&r->stream_options));
}

void request_options(const completion_request *r, struct call_start *ret)
{
    ret->key = r->key;
    ret->urgency = r->urgency;
}

EXPORT int completion_request_set_model(completion_request *r, const char *text, size_t length)
{
    return set_text(r, MODEL, text, length);
}

EXPORT int completion_request_set_prompt(completion_request *r, const char *text, size_t length)
{
    return choose_text(r, r ? &r->prompt : NULL, PROMPT_STRING, false, text, length);
}

EXPORT int completion_request_add_prompt(completion_request *r, const char *text, size_t length)
{
    return choose_text(r, r ? &r->prompt : NULL, PROMPT_STRINGS, true, text, length);
}

EXPORT int completion_request_set_prompt_tokens(completion_request *r, const int32_t *ids, size_t n)
{
    return choose_tokens(r, PROMPT_TOKENS, false, ids, n);
}

EXPORT int completion_request_add_prompt_tokens(completion_request *r, const int32_t *ids, size_t n)
{
    return choose_tokens(r, PROMPT_TOKEN_ARRAYS, true, ids, n);
}

EXPORT int completion_request_set_best_of(completion_request *r, int32_t value)
{
    return set_int(r, BEST_OF, value);
}

EXPORT int completion_request_set_echo(completion_request *r, int value)
{
    return set_int(r, ECHO, value != 0);
}

EXPORT int completion_request_set_frequency_penalty(completion_request *r, double value)
{
    return set_double(r, FREQUENCY_PENALTY, value);
}

EXPORT int completion_request_add_logit_bias(completion_request *r, int32_t token, double bias)
{
    if (!r)
        return -EINVAL;
    size_t before = buffer_length(&r->fields);
    size_t entry = wire_begin(&r->fields, LOGIT_BIAS);
    wire_append_int(&r->fields, 1, token);
    wire_append_double(&r->fields, 2, bias);
    wire_end(&r->fields, entry);
    return settle(&r->fields, before);
}

EXPORT int completion_request_set_logprobs(completion_request *r, int32_t value)
{
    return set_int(r, LOGPROBS, value);
}

EXPORT int completion_request_set_max_tokens(completion_request *r, int32_t value)
{
    return set_int(r, MAX_TOKENS, value);
}

EXPORT int completion_request_set_n(completion_request *r, int32_t value)
{
    return set_int(r, N, value);
}

EXPORT int completion_request_set_presence_penalty(completion_request *r, double value)
{
    return set_double(r, PRESENCE_PENALTY, value);
}

EXPORT int completion_request_set_seed(completion_request *r, int64_t value)
{
    return set_int(r, SEED, value);
}

EXPORT int completion_request_set_stop(completion_request *r, const char *text, size_t length)
{
    return choose_text(r, r ? &r->stop : NULL, STOP_STRING, false, text, length);
}

EXPORT int completion_request_add_stop(completion_request *r, const char *text, size_t length)
{
    return choose_text(r, r ? &r->stop : NULL, STOP_STRINGS, true, text, length);
}

EXPORT int completion_request_set_include_obfuscation(completion_request *r, int value)
{
    return set_stream_option(r, 1, value);
}

EXPORT int completion_request_set_include_usage(completion_request *r, int value)
{
    return set_stream_option(r, 2, value);
}

EXPORT int completion_request_set_suffix(completion_request *r, const char *text, size_t length)
{
    return set_text(r, SUFFIX, text, length);
}

EXPORT int completion_request_set_temperature(completion_request *r, double value)
{
    return set_double(r, TEMPERATURE, value);
}

EXPORT int completion_request_set_top_p(completion_request *r, double value)
{
    return set_double(r, TOP_P, value);
}

EXPORT int completion_request_set_user(completion_request *r, const char *text, size_t length)
{
    return set_text(r, USER, text, length);
}

EXPORT int completion_request_set_extra_body(completion_request *r, const char *text, size_t length)
{
    return set_text(r, EXTRA_BODY, text, length);
}

EXPORT int completion_request_set_api_key(completion_request *r, const char *text, size_t length)
{
    if (!r || !take_length(text, &length) || length == 0 || length > 4096)
        return -EINVAL;
    for (size_t i = 0; i < length; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return -EINVAL;
    char *key = strndup(text, length);
    if (!key)
        return -ENOMEM;
    if (r->key)
        explicit_bzero(r->key, strlen(r->key));
    free(r->key);
    r->key = key;
    return 0;
}

EXPORT int completion_request_set_priority(completion_request *r, int urgency)
{
    if (!r || urgency < 0 || urgency > URGENCY_MAX)
        return -EINVAL;
    r->urgency = urgency;
    return 0;
}
