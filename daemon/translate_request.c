/*
 * From a CreateCompletionRequest to a JSON body. It owns what a request may say: each parameter is
 * checked where it is written, so that the list of calls in translate_request() is the list of
 * parameters in the order of the .proto. It refuses to know defaults: what is not set is not sent,
 * since some servers take an explicit null for an error.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "json_reader.h"
#include "json_writer.h"
#include "translate.h"

enum {
    MAX_TOKENS_DEFAULT = 16, /* the API's */
    BYTES_PER_TOKEN = 4,
    EXTRA_DEPTH_MAX = 32,
    EXTRA_LIVE_BYTES = 4 * 1024 * 1024, /* keys of the objects that are open at one time */
    EXTRA_NAME_MAX = 64,
    STOPS_MAX = 4,
};

struct request {
    const struct translate_request_options *options;
    struct json_writer json;
    struct translate_refusal *refusal;
    int error; /* the first one holds, as does its refusal */
};

static void __attribute__((format(printf, 4, 5)))
refuse_as(struct request *q, enum grpc_status status, const char *field, const char *format, ...)
{
    struct translate_refusal *r = q->refusal;
    va_list args;

    if (q->error)
        return;
    q->error = -EINVAL;
    r->status = status;
    snprintf(r->field, sizeof r->field, "%s", field);
    int n = snprintf(r->text, sizeof r->text, "%s: ", field);
    va_start(args, format);
    vsnprintf(r->text + n, sizeof r->text - (size_t)n, format, args);
    va_end(args);
}

#define refuse(q, field, ...) refuse_as(q, GRPC_INVALID_ARGUMENT, field, __VA_ARGS__)

/* Begins a member, unless nothing more is to be written or the upstream is not to see it. */
static bool begin_member(struct request *q, const char *name)
{
    if (q->error)
        return false;
    for (const char *const *drop = q->options->drop; drop && *drop; drop++)
        if (strcmp(*drop, name) == 0)
            return false;
    json_key(&q->json, name);
    return true;
}

static void put_bool(struct request *q, const char *name, bool is_set, bool value)
{
    if (is_set && begin_member(q, name))
        json_bool(&q->json, value);
}

static void put_text(struct request *q, const char *name, bool is_set, ProtobufCBinaryData text)
{
    if (is_set && begin_member(q, name))
        json_string(&q->json, text.data, text.len);
}

/* Names that can end up in headers, paths and logs of servers. */
static void put_name(struct request *q, const char *name, bool is_set, ProtobufCBinaryData text)
{
    for (size_t i = 0; is_set && i < text.len; i++)
        if (text.data[i] < ' ' || text.data[i] == 0x7F)
            refuse(q, name, "has a control character at byte %zu; remove it", i);
    put_text(q, name, is_set, text);
}

/* INT32_MAX as max: no upper end. */
static void put_int(struct request *q, const char *name, bool is_set, int32_t value, int32_t min,
                    int32_t max)
{
    if (!is_set)
        return;
    if (q->options->validate && value < min && max == INT32_MAX)
        refuse(q, name, "%" PRId32 " is too small; it must be at least %" PRId32, value, min);
    else if (q->options->validate && (value < min || value > max))
        refuse(q, name, "%" PRId32 " is out of range; it must be from %" PRId32 " to %" PRId32,
               value, min, max);
    if (begin_member(q, name))
        json_int(&q->json, value);
}

static void check_double(struct request *q, const char *name, double value, double min, double max)
{
    if (!isfinite(value))
        refuse(q, name, "is not a finite number; it must be from %g to %g", min, max);
    else if (q->options->validate && (value < min || value > max))
        refuse(q, name, "%g is out of range; it must be from %g to %g", value, min, max);
}

static void put_double(struct request *q, const char *name, bool is_set, double value, double min,
                       double max)
{
    if (!is_set)
        return;
    check_double(q, name, value, min, max);
    if (begin_member(q, name))
        json_double(&q->json, value);
}

static void write_strings(struct request *q, const Completion__V1__Strings *strings)
{
    json_begin_array(&q->json);
    for (size_t i = 0; i < strings->n_values; i++)
        json_string(&q->json, strings->values[i].data, strings->values[i].len);
    json_end_array(&q->json);
}

static void check_tokens(struct request *q, const char *field, const Completion__V1__Tokens *tokens)
{
    if (tokens->n_ids == 0)
        refuse(q, field, "is an empty list; give at least one token id");
    for (size_t i = 0; i < tokens->n_ids && !q->error; i++)
        if (tokens->ids[i] < 0)
            refuse(q, field, "%" PRId32 " (at position %zu) is no token id; they are at least 0",
                   tokens->ids[i], i);
}

static void write_tokens(struct request *q, const Completion__V1__Tokens *tokens)
{
    json_begin_array(&q->json);
    for (size_t i = 0; i < tokens->n_ids; i++)
        json_int(&q->json, tokens->ids[i]);
    json_end_array(&q->json);
}

static void put_token_arrays(struct request *q, const Completion__V1__TokenArrays *arrays)
{
    if (arrays->n_values == 0)
        refuse(q, "prompt_token_arrays", "is an empty list; give at least one prompt");
    for (size_t i = 0; i < arrays->n_values && !q->error; i++)
        check_tokens(q, "prompt_token_arrays", arrays->values[i]);
    if (!begin_member(q, "prompt"))
        return;
    json_begin_array(&q->json);
    for (size_t i = 0; i < arrays->n_values; i++)
        write_tokens(q, arrays->values[i]);
    json_end_array(&q->json);
}

static void put_prompt(struct request *q, const translate_request_message *m)
{
    switch (m->prompt_case) {
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING:
        put_text(q, "prompt", true, m->prompt_string);
        break;
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRINGS:
        if (m->prompt_strings->n_values == 0)
            refuse(q, "prompt_strings", "is an empty list; give at least one prompt");
        if (begin_member(q, "prompt"))
            write_strings(q, m->prompt_strings);
        break;
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKENS:
        check_tokens(q, "prompt_tokens", m->prompt_tokens);
        if (begin_member(q, "prompt"))
            write_tokens(q, m->prompt_tokens);
        break;
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKEN_ARRAYS:
        put_token_arrays(q, m->prompt_token_arrays);
        break;
    default:
        break;
    }
}

static void put_stop(struct request *q, const translate_request_message *m)
{
    size_t n;

    switch (m->stop_case) {
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING:
        put_text(q, "stop", true, m->stop_string);
        break;
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRINGS:
        n = m->stop_strings->n_values;
        if (n == 0)
            refuse(q, "stop_strings", "is an empty list; give one to four, or do not set it");
        else if (q->options->validate && n > STOPS_MAX)
            refuse(q, "stop_strings", "has %zu entries; give one to four", n);
        if (begin_member(q, "stop"))
            write_strings(q, m->stop_strings);
        break;
    default:
        break;
    }
}

typedef Completion__V1__CreateCompletionRequest__LogitBiasEntry bias_entry;

/* By token, then by position, so that the last entry of a token is the last of its run. */
static int compare_biases(const void *a, const void *b, void *user)
{
    const size_t i = *(const size_t *)a, j = *(const size_t *)b;
    bias_entry *const *entries = user;

    if (entries[i]->key != entries[j]->key)
        return entries[i]->key < entries[j]->key ? -1 : 1;
    return i < j ? -1 : i > j;
}

static void put_logit_bias(struct request *q, const translate_request_message *m)
{
    bias_entry **entries = m->logit_bias;
    size_t n = m->n_logit_bias;

    for (size_t i = 0; i < n && !q->error; i++) {
        if (entries[i]->key < 0)
            refuse(q, "logit_bias", "%" PRId32 " is no token id; they are at least 0",
                   entries[i]->key);
        check_double(q, "logit_bias", entries[i]->value, -100, 100);
    }
    if (n == 0 || !begin_member(q, "logit_bias"))
        return;

    size_t *order = calloc(n, sizeof *order);
    if (!order) {
        q->error = -ENOMEM;
        return;
    }
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    qsort_r(order, n, sizeof *order, compare_biases, entries);
    json_begin_object(&q->json);
    for (size_t i = 0; i < n; i++) {
        const bias_entry *e = entries[order[i]];
        char key[16];

        if (i + 1 < n && entries[order[i + 1]]->key == e->key)
            continue;
        snprintf(key, sizeof key, "%" PRId32, e->key);
        json_key(&q->json, key);
        json_double(&q->json, e->value);
    }
    json_end_object(&q->json);
    free(order);
}

static void put_stream(struct request *q, const Completion__V1__StreamOptions *options)
{
    if (options && !q->options->stream)
        refuse(q, "stream_options", "is only allowed with CreateStream; do not set it with Create");
    put_bool(q, "stream", q->options->stream, true);
    if (!options || !begin_member(q, "stream_options"))
        return;
    json_begin_object(&q->json);
    if (options->has_include_obfuscation) {
        json_key(&q->json, "include_obfuscation");
        json_bool(&q->json, options->include_obfuscation);
    }
    if (options->has_include_usage) {
        json_key(&q->json, "include_usage");
        json_bool(&q->json, options->include_usage);
    }
    json_end_object(&q->json);
}

/* best_of and n have a range that depends on the other. best_of 0 without n is the API's. */
static void check_best_of(struct request *q, const translate_request_message *m)
{
    int32_t n = m->has_n ? m->n : 1;

    if (!q->options->validate || !m->has_best_of)
        return;
    if (m->has_n && m->best_of < n)
        refuse(q, "best_of",
               "%" PRId32 " is less than n, which is %" PRId32 "; it must be at least n",
               m->best_of, n);
    if (q->options->stream && m->best_of > n)
        refuse(q, "best_of",
               "%" PRId32 " is more than n, which is %" PRId32
               "; the best can't be chosen in a stream, use Create",
               m->best_of, n);
}

/* ---- extra_body ---- */

/* The keys of the objects that are open, as a stack: decoded text, and where each key stands. */
struct extra_keys {
    struct buffer text;
    struct buffer entries; /* struct extra_key, those of the innermost object last */
};

struct extra_key {
    size_t offset, len;
};

static int compare_keys(const void *a, const void *b, void *user)
{
    const struct extra_key *x = a, *y = b;
    const uint8_t *text = user;
    size_t common = x->len < y->len ? x->len : y->len;
    int order = common > 0 ? memcmp(text + x->offset, text + y->offset, common) : 0;

    if (order != 0)
        return order;
    return x->len < y->len ? -1 : x->len > y->len;
}

static bool has_duplicates(struct extra_keys *keys, size_t first)
{
    struct extra_key *entries = (struct extra_key *)(void *)buffer_bytes(&keys->entries);
    size_t n = buffer_length(&keys->entries) / sizeof *entries;
    uint8_t *text = buffer_bytes(&keys->text);

    if (n - first < 2)
        return false;
    qsort_r(entries + first, n - first, sizeof *entries, compare_keys, text);
    for (size_t i = first + 1; i < n; i++)
        if (compare_keys(&entries[i - 1], &entries[i], text) == 0)
            return true;
    return false;
}

/* Servers written in Go match names without regard to case, so neither may these. */
static const char *find_field(const struct json_string *key)
{
    static const char *const others[] = {"prompt", "stop", "stream"};
    const ProtobufCMessageDescriptor *d = &completion__v1__create_completion_request__descriptor;
    char name[EXTRA_NAME_MAX * 6 + 1];

    if (key->len >= sizeof name)
        return NULL;
    name[json_string_decode(key, name)] = '\0';
    for (unsigned i = 0; i < d->n_fields; i++)
        if (strcasecmp(d->fields[i].name, name) == 0)
            return d->fields[i].name;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcasecmp(others[i], name) == 0)
            return others[i];
    return NULL;
}

static void check_extra_value(struct request *q, struct json_reader *r, struct extra_keys *keys,
                              unsigned depth);

static void check_extra_object(struct request *q, struct json_reader *r, struct extra_keys *keys,
                               unsigned depth)
{
    const size_t text_before = buffer_length(&keys->text);
    const size_t entries_before = buffer_length(&keys->entries);
    struct json_string key;

    while (!q->error && json_next_member(r, &key)) {
        const char *field = depth == 1 ? find_field(&key) : NULL;
        struct extra_key entry = {.offset = buffer_length(&keys->text)};

        if (field)
            refuse(q, "extra_body",
                   "sets %s; use the request's own field (for stream, call CreateStream)", field);
        json_string_append(&key, &keys->text);
        entry.len = buffer_length(&keys->text) - entry.offset;
        buffer_append(&keys->entries, &entry, sizeof entry);
        if (keys->text.error == -ENOMEM || keys->entries.error == -ENOMEM)
            q->error = -ENOMEM;
        else if (keys->text.error || keys->entries.error)
            refuse(q, "extra_body", "has too many members");
        check_extra_value(q, r, keys, depth);
    }
    if (!q->error && has_duplicates(keys, entries_before / sizeof(struct extra_key)))
        refuse(q, "extra_body", "has a member twice in one object; give it once");
    buffer_truncate(&keys->text, text_before);
    buffer_truncate(&keys->entries, entries_before);
}

static void check_extra_value(struct request *q, struct json_reader *r, struct extra_keys *keys,
                              unsigned depth)
{
    enum json_type type = json_peek(r);

    if (type != JSON_OBJECT && type != JSON_ARRAY) {
        json_skip(r, NULL);
    } else if (depth == EXTRA_DEPTH_MAX) {
        refuse(q, "extra_body", "is nested deeper than %d levels", EXTRA_DEPTH_MAX);
    } else if (json_enter_object(r)) {
        check_extra_object(q, r, keys, depth + 1);
    } else if (json_enter_array(r)) {
        while (!q->error && json_next_element(r))
            check_extra_value(q, r, keys, depth + 1);
    }
}

static void put_extra_body(struct request *q, const translate_request_message *m)
{
    struct extra_keys keys = {BUFFER_INIT(EXTRA_LIVE_BYTES), BUFFER_INIT(EXTRA_LIVE_BYTES)};
    struct json_reader r;
    const char *error;
    size_t offset;

    if (!m->has_extra_body)
        return;
    if (!q->options->allow_extra_body)
        refuse_as(q, GRPC_PERMISSION_DENIED, "extra_body",
                  "is not allowed here; the administrator's allow_extra_body decides");
    json_reader_init(&r, m->extra_body.data, m->extra_body.len);
    if (!q->error && json_peek(&r) == JSON_OBJECT)
        check_extra_value(q, &r, &keys, 0);
    else if (!q->error && !json_reader_error(&r, NULL))
        refuse(q, "extra_body", "is not a JSON object");
    if (!q->error)
        json_reader_end(&r);
    error = json_reader_error(&r, &offset);
    if (error)
        refuse(q, "extra_body", "is not valid JSON: %s at byte %zu", error, offset);
    if (!q->error)
        json_raw_members(&q->json, m->extra_body.data, m->extra_body.len);
    buffer_done(&keys.text);
    buffer_done(&keys.entries);
}

int translate_request(const translate_request_message *m,
                      const struct translate_request_options *options, struct buffer *body,
                      struct translate_refusal *ret)
{
    struct request q = {.options = options, .json = json_writer(body), .refusal = ret};

    json_begin_object(&q.json);
    if (!m->has_model || m->model.len == 0)
        refuse(&q, "model", "is missing; set it to the name of a model");
    put_name(&q, "model", m->has_model, m->model);
    put_prompt(&q, m);
    put_int(&q, "best_of", m->has_best_of, m->best_of, 0, 20);
    put_bool(&q, "echo", m->has_echo, m->echo);
    put_double(&q, "frequency_penalty", m->has_frequency_penalty, m->frequency_penalty, -2, 2);
    put_logit_bias(&q, m);
    put_int(&q, "logprobs", m->has_logprobs, m->logprobs, 0, 5);
    put_int(&q, "max_tokens", m->has_max_tokens, m->max_tokens, 0, INT32_MAX);
    put_int(&q, "n", m->has_n, m->n, 1, 128);
    check_best_of(&q, m);
    put_double(&q, "presence_penalty", m->has_presence_penalty, m->presence_penalty, -2, 2);
    if (m->has_seed && begin_member(&q, "seed"))
        json_int(&q.json, m->seed);
    put_stop(&q, m);
    put_stream(&q, m->stream_options);
    put_text(&q, "suffix", m->has_suffix, m->suffix);
    put_double(&q, "temperature", m->has_temperature, m->temperature, 0, 2);
    put_double(&q, "top_p", m->has_top_p, m->top_p, 0, 1);
    put_name(&q, "user", m->has_user, m->user);
    put_extra_body(&q, m);
    json_end_object(&q.json);
    return q.error ? q.error : body->error;
}

uint64_t translate_request_n_choices(const translate_request_message *m)
{
    uint64_t n = m->has_n && m->n > 0 ? (uint64_t)m->n : 1;
    uint64_t n_prompts = 1;

    if (m->prompt_case == COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRINGS)
        n_prompts = m->prompt_strings->n_values;
    else if (m->prompt_case ==
             COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKEN_ARRAYS)
        n_prompts = m->prompt_token_arrays->n_values;
    return n * (n_prompts > 0 ? n_prompts : 1);
}

static int64_t text_tokens(size_t len)
{
    return (int64_t)((len + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN);
}

static int64_t prompt_tokens(const translate_request_message *m)
{
    int64_t n = 0;

    switch (m->prompt_case) {
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING:
        return text_tokens(m->prompt_string.len);
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRINGS:
        for (size_t i = 0; i < m->prompt_strings->n_values; i++)
            n += text_tokens(m->prompt_strings->values[i].len);
        return n;
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKENS:
        return (int64_t)m->prompt_tokens->n_ids;
    case COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKEN_ARRAYS:
        for (size_t i = 0; i < m->prompt_token_arrays->n_values; i++)
            n += (int64_t)m->prompt_token_arrays->values[i]->n_ids;
        return n;
    default:
        return 0;
    }
}

struct translate_tokens translate_request_tokens(const translate_request_message *m)
{
    int64_t n = (int64_t)translate_request_n_choices(m);
    int64_t each = m->has_max_tokens ? m->max_tokens : MAX_TOKENS_DEFAULT;
    int64_t generated;

    /* best_of choices are generated for each prompt where it is more than n. */
    if (m->has_best_of && m->best_of > (m->has_n ? m->n : 1))
        n = n / (m->has_n && m->n > 0 ? m->n : 1) * m->best_of;
    if (__builtin_mul_overflow(n, each > 0 ? each : 0, &generated))
        generated = INT64_MAX / 2;
    return (struct translate_tokens){
        .prompt = prompt_tokens(m) + (m->has_suffix ? text_tokens(m->suffix.len) : 0),
        .completion = generated,
    };
}
