/*
 * Values to JSON. Owns the shapes of the API; decides nothing. Objects are built by json-c; an
 * allocation that fails on the way is remembered and fails the whole.
 */
#include "reply.h"

#include <errno.h>
#include <event2/buffer.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

/* ---- Building ---- */

struct builder {
    bool failed;
};

/* Takes the value; NULL is a failure, null is put_null(). */
static void put(struct builder *b, json_object *object, const char *key, json_object *value)
{
    if (object && value && json_object_object_add(object, key, value) == 0)
        return;
    json_object_put(value);
    b->failed = true;
}

static void put_null(struct builder *b, json_object *object, const char *key)
{
    if (!object || json_object_object_add(object, key, NULL) < 0)
        b->failed = true;
}

static void put_string(struct builder *b, json_object *object, const char *key, const char *text)
{
    if (text)
        put(b, object, key, json_object_new_string(text));
    else
        put_null(b, object, key);
}

static void put_number(struct builder *b, json_object *object, const char *key, size_t number)
{
    put(b, object, key, json_object_new_int64((int64_t)number));
}

static void append(struct builder *b, json_object *array, json_object *value)
{
    if (array && value && json_object_array_add(array, value) == 0)
        return;
    json_object_put(value);
    b->failed = true;
}

static void append_null(struct builder *b, json_object *array)
{
    if (!array || json_object_array_add(array, NULL) < 0)
        b->failed = true;
}

/* Appends `before`, the object and `after`, all or nothing; the object is gone then. */
static int write_object(struct builder *b, json_object *object, const char *before,
                        const char *after, struct evbuffer *out)
{
    size_t len, n_before = strlen(before), n_after = strlen(after);
    const char *text =
        b->failed || !object
            ? NULL
            : json_object_to_json_string_length(
                  object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    int r = -ENOMEM;

    if (text && evbuffer_expand(out, n_before + len + n_after) == 0 &&
        evbuffer_add(out, before, n_before) == 0 && evbuffer_add(out, text, len) == 0 &&
        evbuffer_add(out, after, n_after) == 0)
        r = 0;
    json_object_put(object);
    return r;
}

/* ---- Log probabilities ---- */

enum { TOKEN_TEXT_MAX = 4 * VOCABULARY_WORD_MAX + sizeof "bytes:" };

/* A token's text, or its bytes in the API's spelling if they are not whole characters. */
static void token_text(const struct vocabulary *v, uint32_t id, char text[TOKEN_TEXT_MAX])
{
    size_t len;
    const char *bytes = vocabulary_bytes(v, id, &len);
    bool is_text = true;

    for (size_t i = 0; i < len && is_text;) {
        int n = utf8_first(bytes + i, len - i);
        is_text = n > 0;
        i += is_text ? (size_t)n : 0;
    }
    if (is_text && !memchr(bytes, '\0', len)) {
        memcpy(text, bytes, len);
        text[len] = '\0';
        return;
    }
    char *p = stpcpy(text, "bytes:");
    for (size_t i = 0; i < len; i++)
        p += sprintf(p, "\\x%02x", (unsigned char)bytes[i]);
}

static json_object *top_logprobs(struct builder *b, const struct vocabulary *v,
                                 const struct choice_token *t)
{
    json_object *top = json_object_new_object();
    char text[TOKEN_TEXT_MAX];

    for (size_t i = 0; i < t->n_top; i++) {
        token_text(v, t->top[i].id, text);
        put(b, top, text, json_object_new_double(t->top[i].logprob));
    }
    return top;
}

static json_object *logprobs(struct builder *b, const struct vocabulary *v,
                             const struct choice_piece *piece)
{
    json_object *object = json_object_new_object(), *tokens = json_object_new_array(),
                *values = json_object_new_array(), *tops = json_object_new_array(),
                *offsets = json_object_new_array();
    char text[TOKEN_TEXT_MAX];

    for (size_t i = 0; i < piece->n_tokens; i++) {
        const struct choice_token *t = &piece->tokens[i];
        token_text(v, t->id, text);
        append(b, tokens, json_object_new_string(text));
        append(b, offsets, json_object_new_int64((int64_t)piece->offsets[i]));
        if (t->has_logprob) {
            append(b, values, json_object_new_double(t->logprob));
            append(b, tops, top_logprobs(b, v, t));
        } else {
            append_null(b, values);
            append_null(b, tops);
        }
    }
    put(b, object, "tokens", tokens);
    put(b, object, "token_logprobs", values);
    put(b, object, "top_logprobs", tops);
    put(b, object, "text_offset", offsets);
    return object;
}

/* ---- Completions ---- */

static json_object *choice(struct builder *b, const struct vocabulary *v,
                           const struct reply_choice *c, bool with_logprobs)
{
    json_object *object = json_object_new_object();

    put(b, object, "text", json_object_new_string_len(c->piece.text, (int)c->piece.len));
    put_number(b, object, "index", c->index);
    if (with_logprobs)
        put(b, object, "logprobs", logprobs(b, v, &c->piece));
    else
        put_null(b, object, "logprobs");
    put_string(b, object, "finish_reason", c->finish_reason);
    return object;
}

static json_object *usage(struct builder *b, const struct reply_usage *u)
{
    json_object *object = json_object_new_object(), *of_prompt = json_object_new_object(),
                *of_completion = json_object_new_object();

    put_number(b, of_prompt, "audio_tokens", 0);
    put_number(b, of_prompt, "cached_tokens", 0);
    put_number(b, of_prompt, "cache_write_tokens", 0);
    put_number(b, of_prompt, "image_tokens", 0);
    put_number(b, of_prompt, "text_tokens", u->n_prompt);
    put_number(b, of_completion, "accepted_prediction_tokens", 0);
    put_number(b, of_completion, "audio_tokens", 0);
    put_number(b, of_completion, "reasoning_tokens", 0);
    put_number(b, of_completion, "rejected_prediction_tokens", 0);
    put_number(b, of_completion, "text_tokens", u->n_completion);
    put_number(b, object, "prompt_tokens", u->n_prompt);
    put_number(b, object, "completion_tokens", u->n_completion);
    put_number(b, object, "total_tokens", u->n_prompt + u->n_completion);
    put(b, object, "prompt_tokens_details", of_prompt);
    put(b, object, "completion_tokens_details", of_completion);
    return object;
}

/* choices is put into it. */
static json_object *completion(struct builder *b, const struct reply_head *head,
                               json_object *choices)
{
    json_object *object = json_object_new_object();

    put_string(b, object, "id", head->id);
    put_string(b, object, "object", "text_completion");
    put(b, object, "created", json_object_new_int64(head->created));
    put_string(b, object, "model", head->model);
    put_string(b, object, "system_fingerprint", head->fingerprint);
    put(b, object, "choices", choices);
    return object;
}

int reply_completion(const struct reply_head *head, const struct reply_choice *choices, size_t n,
                     bool with_logprobs, const struct reply_usage *u, struct evbuffer *out)
{
    struct builder b = {0};
    json_object *array = json_object_new_array();

    for (size_t i = 0; i < n; i++)
        append(&b, array, choice(&b, head->vocabulary, &choices[i], with_logprobs));
    json_object *object = completion(&b, head, array);
    put(&b, object, "usage", usage(&b, u));
    return write_object(&b, object, "", "\n", out);
}

int reply_chunk(const struct reply_head *head, const struct reply_choice *c,
                const struct reply_chunk_options *options, struct evbuffer *out)
{
    struct builder b = {0};
    json_object *array = json_object_new_array();

    append(&b, array, choice(&b, head->vocabulary, c, options->logprobs));
    json_object *object = completion(&b, head, array);
    if (options->usage)
        put_null(&b, object, "usage");
    if (options->obfuscation)
        put_string(&b, object, "obfuscation", options->obfuscation);
    return write_object(&b, object, "data: ", "\n\n", out);
}

int reply_usage_chunk(const struct reply_head *head, const struct reply_usage *u,
                      const char *obfuscation, struct evbuffer *out)
{
    struct builder b = {0};
    json_object *object = completion(&b, head, json_object_new_array());

    put(&b, object, "usage", usage(&b, u));
    if (obfuscation)
        put_string(&b, object, "obfuscation", obfuscation);
    return write_object(&b, object, "data: ", "\n\n", out);
}

int reply_done(struct evbuffer *out)
{
    static const char done[] = "data: [DONE]\n\n";

    return evbuffer_add(out, done, strlen(done)) < 0 ? -ENOMEM : 0;
}

/* ---- Others ---- */

int reply_error(const struct refusal *r, struct evbuffer *out)
{
    struct builder b = {0};
    json_object *object = json_object_new_object(), *error = json_object_new_object();

    put_string(&b, error, "message", r->message);
    put_string(&b, error, "type", r->status >= 500 ? "server_error" : "invalid_request_error");
    put_string(&b, error, "param", r->param[0] ? r->param : NULL);
    put_string(&b, error, "code", r->code);
    put(&b, object, "error", error);
    return write_object(&b, object, "", "\n", out);
}

int reply_object(json_object *object, struct evbuffer *out)
{
    struct builder b = {0};

    return write_object(&b, object, "", "\n", out);
}
