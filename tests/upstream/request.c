/*
 * Reads a request. Owns the table of the API's members and the checks between them; each member is
 * read by a function of its type. Nothing is looked up in the model but its words.
 */
#include "request.h"

#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

struct reader {
    struct request *request;
    const char *model;
    const struct vocabulary *vocabulary;
    struct refusal *refusal;
};

struct member {
    const char *name;
    int (*read)(const struct reader *r, const struct member *m, json_object *value);
    size_t offset; /* in struct request, for the simple types */
    int64_t min, max;
    bool not_nullable;
};

/* ---- Refusals that are alike ---- */

/* Names that clients made up go into error texts only if they can't do harm there. */
static const char *printable(const char *name)
{
    for (const char *p = name; *p; p++)
        if (*p < 0x20 || *p > 0x7e || p - name >= 60)
            return "(not printable)";
    return name;
}

static int refuse_type(const struct reader *r, const char *name, const char *expected,
                       json_object *value)
{
    return refusal_set(r->refusal, 400, name, "invalid_type",
                       "Invalid type for '%s': expected %s, but got %s instead.", name, expected,
                       value ? json_type_to_name(json_object_get_type(value)) : "null");
}

static int refuse_empty(const struct reader *r, const char *name, const char *code,
                        const char *what)
{
    return refusal_set(r->refusal, 400, name, code, "Invalid '%s': %s is empty.", name, what);
}

/* ---- Simple types ---- */

static void *field(const struct reader *r, const struct member *m)
{
    return (char *)r->request + m->offset;
}

static int read_integer(const struct reader *r, const struct member *m, json_object *value)
{
    if (!json_object_is_type(value, json_type_int))
        return refuse_type(r, m->name, "an integer", value);
    int64_t number = json_object_get_int64(value);
    if (number < m->min)
        return refusal_set(r->refusal, 400, m->name, "integer_below_min_value",
                           "Invalid '%s': expected a value >= %lld, but got %lld instead.", m->name,
                           (long long)m->min, (long long)number);
    /* Above INT64_MAX the signed getter says INT64_MAX. */
    if (number > m->max || json_object_get_uint64(value) > INT64_MAX)
        return refusal_set(r->refusal, 400, m->name, "integer_above_max_value",
                           "Invalid '%s': expected a value <= %lld, but got %llu instead.", m->name,
                           (long long)m->max, (unsigned long long)json_object_get_uint64(value));
    *(int64_t *)field(r, m) = number;
    return 0;
}

static int check_number(const struct reader *r, const char *name, double min, double max,
                        json_object *value, double *ret)
{
    if (!json_object_is_type(value, json_type_double) && !json_object_is_type(value, json_type_int))
        return refuse_type(r, name, "a number", value);
    double number = json_object_get_double(value);
    if (!isfinite(number))
        return refusal_set(r->refusal, 400, name, "invalid_value",
                           "Invalid '%s': expected a finite number.", name);
    if (number < min)
        return refusal_set(r->refusal, 400, name, "decimal_below_min_value",
                           "Invalid '%s': expected a value >= %g, but got %g instead.", name, min,
                           number);
    if (number > max)
        return refusal_set(r->refusal, 400, name, "decimal_above_max_value",
                           "Invalid '%s': expected a value <= %g, but got %g instead.", name, max,
                           number);
    *ret = number;
    return 0;
}

static int read_number(const struct reader *r, const struct member *m, json_object *value)
{
    return check_number(r, m->name, (double)m->min, (double)m->max, value, field(r, m));
}

static int read_boolean(const struct reader *r, const struct member *m, json_object *value)
{
    if (!json_object_is_type(value, json_type_boolean))
        return refuse_type(r, m->name, "a boolean", value);
    *(bool *)field(r, m) = json_object_get_boolean(value);
    return 0;
}

static int read_best_of(const struct reader *r, const struct member *m, json_object *value)
{
    r->request->has_best_of = true;
    return read_integer(r, m, value);
}

static int read_seed(const struct reader *r, const struct member *m, json_object *value)
{
    r->request->has_seed = true;
    return read_integer(r, m, value);
}

/* ---- Strings ---- */

/* Taken and of no effect: it is there for the abuse monitoring of others. */
static int read_user(const struct reader *r, const struct member *m, json_object *value)
{
    if (!json_object_is_type(value, json_type_string))
        return refuse_type(r, m->name, "a string", value);
    return 0;
}

static int read_model(const struct reader *r, const struct member *m, json_object *value)
{
    if (!json_object_is_type(value, json_type_string))
        return refuse_type(r, m->name, "a string", value);
    size_t len = (size_t)json_object_get_string_len(value);
    if (len == strlen(r->model) && !memcmp(json_object_get_string(value), r->model, len))
        return 0;
    return refusal_set(r->refusal, 404, m->name, "model_not_found",
                       "The model `%s` does not exist or you do not have access to it.",
                       printable(json_object_get_string(value)));
}

static int encode(const struct reader *r, json_object *text, struct tokens *ret)
{
    if (vocabulary_encode(r->vocabulary, json_object_get_string(text),
                          (size_t)json_object_get_string_len(text), ret) < 0)
        return refusal_set_memory(r->refusal);
    return 0;
}

static int read_suffix(const struct reader *r, const struct member *m, json_object *value)
{
    if (!json_object_is_type(value, json_type_string))
        return refuse_type(r, m->name, "a string", value);
    r->request->has_suffix = true;
    return encode(r, value, &r->request->suffix);
}

static int read_stop_string(const struct reader *r, const struct member *m, json_object *value)
{
    if (!json_object_is_type(value, json_type_string))
        return refuse_type(r, m->name, "a string or an array of strings", value);
    size_t len = (size_t)json_object_get_string_len(value);
    if (len == 0)
        return refuse_empty(r, m->name, "empty_string", "a stop sequence");
    char *text = malloc(len);
    if (!text)
        return refusal_set_memory(r->refusal);
    memcpy(text, json_object_get_string(value), len);
    r->request->stops[r->request->n_stops++] = (struct request_stop){text, len};
    return 0;
}

static int read_stop(const struct reader *r, const struct member *m, json_object *value)
{
    int result = 0;

    if (!json_object_is_type(value, json_type_array))
        return read_stop_string(r, m, value);
    size_t n = json_object_array_length(value);
    if (n == 0)
        return refuse_empty(r, m->name, "empty_array", "the array");
    if (n > REQUEST_STOPS_MAX)
        return refusal_set(r->refusal, 400, m->name, "array_above_max_length",
                           "Invalid '%s': expected an array of at most %d, but got %zu instead.",
                           m->name, REQUEST_STOPS_MAX, n);
    for (size_t i = 0; i < n && result == 0; i++)
        result = read_stop_string(r, m, json_object_array_get_idx(value, i));
    return result;
}

/* ---- Prompts ---- */

static int read_token(const struct reader *r, json_object *value, struct tokens *ret)
{
    if (!json_object_is_type(value, json_type_int))
        return refuse_type(r, "prompt", "a token id", value);
    int64_t id = json_object_get_int64(value);
    if (id < 0 || id >= (int64_t)r->vocabulary->n)
        return refusal_set(r->refusal, 400, "prompt", "invalid_token",
                           "Invalid 'prompt': token ids are from 0 to %zu.", r->vocabulary->n - 1);
    return tokens_add(ret, (uint32_t)id) < 0 ? refusal_set_memory(r->refusal) : 0;
}

static int read_tokens(const struct reader *r, json_object *array, struct tokens *ret)
{
    size_t n = json_object_array_length(array);
    int result = n > 0 ? 0 : refuse_empty(r, "prompt", "empty_array", "an array");

    for (size_t i = 0; i < n && result == 0; i++)
        result = read_token(r, json_object_array_get_idx(array, i), ret);
    return result;
}

static int read_one_prompt(const struct reader *r, json_object *value, struct tokens *ret)
{
    if (json_object_is_type(value, json_type_string))
        return encode(r, value, ret);
    if (json_object_is_type(value, json_type_array))
        return read_tokens(r, value, ret);
    return refuse_type(r, "prompt", "a string or an array of token ids", value);
}

static int allocate_prompts(const struct reader *r, size_t n)
{
    if (n > REQUEST_CHOICES_MAX)
        return refusal_set(r->refusal, 400, "prompt", "array_above_max_length",
                           "Invalid 'prompt': expected an array of at most %d, but got %zu.",
                           REQUEST_CHOICES_MAX, n);
    r->request->prompts = calloc(n, sizeof *r->request->prompts);
    if (!r->request->prompts)
        return refusal_set_memory(r->refusal);
    r->request->n_prompts = n;
    return 0;
}

static int read_prompt(const struct reader *r, const struct member *m, json_object *value)
{
    struct request *q = r->request;
    bool is_list = json_object_is_type(value, json_type_array);
    json_object *first = is_list ? json_object_array_get_idx(value, 0) : NULL;
    enum json_type type = json_object_get_type(first);
    int result;

    /* One prompt: a string, or an array of ids. */
    if (!is_list || (type != json_type_string && type != json_type_array)) {
        result = allocate_prompts(r, 1);
        return result < 0 ? result : read_one_prompt(r, value, &q->prompts[0]);
    }
    if ((result = allocate_prompts(r, json_object_array_length(value))) < 0)
        return result;
    for (size_t i = 0; i < q->n_prompts && result == 0; i++) {
        json_object *prompt = json_object_array_get_idx(value, i);
        if (!json_object_is_type(prompt, type))
            return refuse_type(r, m->name, "prompts of one type", prompt);
        result = read_one_prompt(r, prompt, &q->prompts[i]);
    }
    return result;
}

/* ---- Objects ---- */

static int read_bias(const struct reader *r, const struct member *m, const char *key,
                     json_object *value, struct sampler_bias *ret)
{
    char *end;
    double number;

    errno = 0;
    unsigned long id = strtoul(key, &end, 10);
    if (key[0] < '0' || key[0] > '9' || *end || errno || id >= r->vocabulary->n)
        return refusal_set(r->refusal, 400, m->name, "invalid_key",
                           "Invalid '%s': keys are token ids from 0 to %zu.", m->name,
                           r->vocabulary->n - 1);
    int result = check_number(r, m->name, (double)m->min, (double)m->max, value, &number);
    if (result == 0)
        *ret = (struct sampler_bias){(uint32_t)id, number};
    return result;
}

static int read_logit_bias(const struct reader *r, const struct member *m, json_object *value)
{
    struct request *q = r->request;
    size_t n = 0;

    if (!json_object_is_type(value, json_type_object))
        return refuse_type(r, m->name, "an object", value);
    q->biases = calloc((size_t)json_object_object_length(value) + 1, sizeof *q->biases);
    if (!q->biases)
        return refusal_set_memory(r->refusal);
    json_object_object_foreach(value, key, bias)
    {
        int result = read_bias(r, m, key, bias, &q->biases[n]);
        if (result < 0)
            return result;
        n++;
    }
    q->sampling.biases = q->biases;
    q->sampling.n_biases = n;
    return 0;
}

static int read_members(const struct reader *r, const struct member *members, size_t n,
                        json_object *object);

static int read_stream_options(const struct reader *r, const struct member *m, json_object *value)
{
    static const struct member members[] = {
        {"include_obfuscation", read_boolean, offsetof(struct request, include_obfuscation), 0, 0,
         true},
        {"include_usage", read_boolean, offsetof(struct request, include_usage), 0, 0, true},
    };

    if (!json_object_is_type(value, json_type_object))
        return refuse_type(r, m->name, "an object", value);
    r->request->has_stream_options = true;
    return read_members(r, members, sizeof members / sizeof *members, value);
}

/* ---- The whole ---- */

#define FIELD(member, function, from, to)                                                          \
    {                                                                                              \
        .name = #member, .read = (function), .offset = offsetof(struct request, member),           \
        .min = (from), .max = (to)                                                                 \
    }
#define SAMPLING(member, from, to)                                                                 \
    {                                                                                              \
        .name = #member, .read = read_number, .offset = offsetof(struct request, sampling.member), \
        .min = (from), .max = (to)                                                                 \
    }

static const struct member request_members[] = {
    {"model", read_model, 0, 0, 0, true},
    {"prompt", read_prompt, 0, 0, 0, false},
    FIELD(best_of, read_best_of, 0, 20),
    FIELD(echo, read_boolean, 0, 0),
    SAMPLING(frequency_penalty, -2, 2),
    {"logit_bias", read_logit_bias, 0, -100, 100, false},
    FIELD(logprobs, read_integer, 0, REQUEST_LOGPROBS_MAX),
    FIELD(max_tokens, read_integer, 0, INT32_MAX),
    FIELD(n, read_integer, 1, 128),
    SAMPLING(presence_penalty, -2, 2),
    FIELD(seed, read_seed, INT64_MIN, INT64_MAX),
    {"stop", read_stop, 0, 0, 0, false},
    FIELD(stream, read_boolean, 0, 0),
    {"stream_options", read_stream_options, 0, 0, 0, false},
    {"suffix", read_suffix, 0, 0, 0, false},
    SAMPLING(temperature, 0, 2),
    SAMPLING(top_p, 0, 1),
    {"user", read_user, 0, 0, 0, true},
};

static int read_members(const struct reader *r, const struct member *members, size_t n,
                        json_object *object)
{
    json_object_object_foreach(object, key, value)
    {
        size_t i = 0;
        while (i < n && strcmp(members[i].name, key) != 0)
            i++;
        if (i == n)
            return refusal_set(r->refusal, 400, NULL, NULL,
                               "Unrecognized request argument supplied: %s", printable(key));
        if (!value && !members[i].not_nullable)
            continue;
        int result = members[i].read(r, &members[i], value);
        if (result < 0)
            return result;
    }
    return 0;
}

static int check_together(const struct reader *r)
{
    struct request *q = r->request;

    if (!q->has_best_of)
        q->best_of = q->n;
    if (q->best_of < q->n)
        return refusal_set(r->refusal, 400, "best_of", NULL,
                           "You requested that the server return more choices than it will "
                           "generate (best_of must be at least n).");
    if (q->stream && q->best_of > q->n)
        return refusal_set(r->refusal, 400, "best_of", NULL,
                           "Results cannot be streamed when best_of is above n.");
    if (q->has_stream_options && !q->stream)
        return refusal_set(r->refusal, 400, "stream_options", NULL,
                           "The 'stream_options' parameter is only allowed when 'stream' is "
                           "enabled.");
    if (q->n_prompts * (size_t)q->best_of > REQUEST_CHOICES_MAX)
        return refusal_set(r->refusal, 400, q->best_of > q->n ? "best_of" : "n", NULL,
                           "At most %d choices are generated for one request.",
                           REQUEST_CHOICES_MAX);
    return 0;
}

static int check_context(const struct reader *r)
{
    const struct request *q = r->request;

    for (size_t i = 0; i < q->n_prompts; i++) {
        size_t n = q->prompts[i].n + q->suffix.n;
        if (n + (size_t)q->max_tokens > REQUEST_CONTEXT_MAX)
            return refusal_set(
                r->refusal, 400, NULL, "context_length_exceeded",
                "This model's maximum context length is %d tokens, however you requested %zu "
                "tokens (%zu in your prompt; %zu for the completion). Please reduce your prompt or "
                "completion length.",
                REQUEST_CONTEXT_MAX, n + (size_t)q->max_tokens, n, (size_t)q->max_tokens);
    }
    return 0;
}

static int read_request(const struct reader *r, json_object *object)
{
    struct request *q = r->request;
    json_object *model;
    int result;

    if (!json_object_object_get_ex(object, "model", &model))
        return refusal_set(r->refusal, 400, "model", NULL, "You must provide a model parameter.");
    if ((result = read_members(r, request_members, sizeof request_members / sizeof *request_members,
                               object)) < 0)
        return result;
    if (q->n_prompts == 0) { /* absent or null: the end of a text is where the next one begins */
        if ((result = allocate_prompts(r, 1)) < 0)
            return result;
        if (tokens_add(&q->prompts[0], VOCABULARY_END) < 0)
            return refusal_set_memory(r->refusal);
    }
    result = check_together(r);
    return result < 0 ? result : check_context(r);
}

/* json-c's own check lets surrogates pass. */
static bool is_utf8(const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        int n = utf8_first(text + i, len - i);
        if (n <= 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

/* NULL: it is not JSON from the first byte to the last. */
static json_object *parse(const char *body, size_t len)
{
    json_tokener *tokener = is_utf8(body, len) ? json_tokener_new() : NULL;

    if (!tokener)
        return NULL;
    while (len > 0 && strchr(" \t\r\n", body[len - 1]) && body[len - 1])
        len--;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    json_object *object = json_tokener_parse_ex(tokener, body, (int)len);
    if (object && json_tokener_get_parse_end(tokener) != len) {
        json_object_put(object);
        object = NULL;
    }
    json_tokener_free(tokener);
    return object;
}

int request_parse(const char *body, size_t len, const char *model, const struct vocabulary *v,
                  struct request *ret, struct refusal *refusal)
{
    struct request q = {
        .n = 1, .max_tokens = 16, .logprobs = -1, .sampling = {.temperature = 1, .top_p = 1}};
    struct reader r = {&q, model, v, refusal};
    json_object *object = len <= REQUEST_BODY_MAX_BYTES ? parse(body, len) : NULL;

    if (!json_object_is_type(object, json_type_object)) {
        json_object_put(object);
        return refusal_set(refusal, 400, NULL, NULL,
                           "We could not parse the body of your request: it must be one JSON "
                           "object in UTF-8.");
    }
    int result = read_request(&r, object);
    json_object_put(object);
    if (result < 0) {
        request_done(&q);
        return result;
    }
    *ret = q;
    return 0;
}

void request_done(struct request *r)
{
    for (size_t i = 0; i < r->n_prompts; i++)
        tokens_done(&r->prompts[i]);
    free(r->prompts);
    tokens_done(&r->suffix);
    for (size_t i = 0; i < r->n_stops; i++)
        free(r->stops[i].text);
    free(r->biases);
    *r = (struct request){0};
}
