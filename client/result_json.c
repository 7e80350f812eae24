/*
 * A result in the API's own JSON. Members stand in the order of the API's examples; what the API
 * always has is always there, null if need be.
 */
#include <errno.h>
#include <stdlib.h>

#include "../proto/json_reader.h"
#include "../proto/json_writer.h"
#include "internal.h"

enum { JSON_MAX_BYTES = 512 << 20 };

static void put_bytes(struct json_writer *w, const ProtobufCBinaryData *b)
{
    json_string(w, b->data, b->len);
}

static void put_text(struct json_writer *w, const char *key, protobuf_c_boolean has,
                     const ProtobufCBinaryData *b)
{
    if (!has)
        return;
    json_key(w, key);
    put_bytes(w, b);
}

/* The daemon checks what it sends; what is sent by something else must not pass for JSON. */
static void put_extra(struct json_writer *w, protobuf_c_boolean has, const ProtobufCBinaryData *b)
{
    struct json_reader r;

    if (!has)
        return;
    json_reader_init(&r, b->data, b->len);
    if (json_peek(&r) != JSON_OBJECT || !json_skip(&r, NULL) || !json_reader_end(&r)) {
        if (!w->out->error)
            w->out->error = -EBADMSG;
        return;
    }
    size_t from = buffer_length(w->out);
    json_raw_members(w, b->data, b->len);
    /* Servers may write on several lines; control characters only stand between values. */
    for (uint8_t *p = buffer_bytes(w->out); from < buffer_length(w->out); from++)
        if (p[from] < ' ')
            p[from] = ' ';
}

static void put_int(struct json_writer *w, const char *key, protobuf_c_boolean has, int64_t value)
{
    if (!has)
        return;
    json_key(w, key);
    json_int(w, value);
}

static void put_top(struct json_writer *w, const Completion__V1__TopLogprobs *top)
{
    if (top->is_null) {
        json_null(w);
        return;
    }
    json_begin_object(w);
    for (size_t i = 0; i < top->n_entries; i++) {
        const Completion__V1__TopLogprob *t = top->entries[i];
        /* A name may need escapes: it is written as the string that it is. */
        json_string(w, t->token.data, t->token.len);
        buffer_append_byte(w->out, ':');
        w->comma = false;
        json_double(w, t->logprob);
    }
    json_end_object(w);
}

/* Begins one of the lists of the same length, if it has entries or is to be there in any case. */
static bool begin_list(struct json_writer *w, const char *key, size_t n, size_t n_tokens, bool all)
{
    if (n == 0 && !all)
        return false;
    json_key(w, key);
    /* The server left it out, or sent null: none of top_logprobs were asked for. */
    if (n == 0 && n_tokens > 0) {
        json_null(w);
        return false;
    }
    json_begin_array(w);
    return true;
}

static void put_token_logprob(struct json_writer *w, const Completion__V1__TokenLogprob *t)
{
    if (t->has_logprob)
        json_double(w, t->logprob);
    else
        json_null(w);
}

/* Appends the list of l->field as put(entry). */
#define PUT_LIST(field, put)                                                                       \
    if (begin_list(w, #field, l->n_##field, l->n_tokens, all)) {                                   \
        for (size_t i = 0; i < l->n_##field; i++)                                                  \
            put;                                                                                   \
        json_end_array(w);                                                                         \
    }

static void put_logprobs(struct json_writer *w, const Completion__V1__CompletionLogprobs *l)
{
    /* Shapes that are not the API's are all in extra. */
    bool all = !l->has_extra;

    json_begin_object(w);
    PUT_LIST(tokens, put_bytes(w, &l->tokens[i]))
    PUT_LIST(token_logprobs, put_token_logprob(w, l->token_logprobs[i]))
    PUT_LIST(top_logprobs, put_top(w, l->top_logprobs[i]))
    PUT_LIST(text_offset, json_int(w, l->text_offset[i]))
    put_extra(w, l->has_extra, &l->extra);
    json_end_object(w);
}

static void put_choice(struct json_writer *w, const completion_result *r, size_t i)
{
    const Completion__V1__CompletionChoice *c = result_message(r)->choices[i];
    completion_text reason = completion_choice_finish_reason_text(r, i);

    json_begin_object(w);
    put_text(w, "text", c->has_text, &c->text);
    put_int(w, "index", c->has_index, c->index);
    if (c->logprobs) {
        json_key(w, "logprobs");
        put_logprobs(w, c->logprobs);
    } else {
        json_key(w, "logprobs");
        json_null(w);
    }
    json_key(w, "finish_reason");
    if (reason.data)
        json_string(w, reason.data, reason.length);
    else
        json_null(w);
    put_extra(w, c->has_extra, &c->extra);
    json_end_object(w);
}

#define PUT(w, m, name) put_int(w, #name, (m)->has_##name, (m)->name)

static void put_usage(struct json_writer *w, const Completion__V1__CompletionUsage *u)
{
    const Completion__V1__CompletionTokensDetails *c = u->completion_tokens_details;
    const Completion__V1__PromptTokensDetails *p = u->prompt_tokens_details;

    json_key(w, "usage");
    json_begin_object(w);
    PUT(w, u, prompt_tokens);
    PUT(w, u, completion_tokens);
    PUT(w, u, total_tokens);
    if (p) {
        json_key(w, "prompt_tokens_details");
        json_begin_object(w);
        PUT(w, p, audio_tokens);
        PUT(w, p, cached_tokens);
        PUT(w, p, cache_write_tokens);
        PUT(w, p, image_tokens);
        PUT(w, p, text_tokens);
        put_extra(w, p->has_extra, &p->extra);
        json_end_object(w);
    }
    if (c) {
        json_key(w, "completion_tokens_details");
        json_begin_object(w);
        PUT(w, c, accepted_prediction_tokens);
        PUT(w, c, audio_tokens);
        PUT(w, c, reasoning_tokens);
        PUT(w, c, rejected_prediction_tokens);
        PUT(w, c, text_tokens);
        put_extra(w, c->has_extra, &c->extra);
        json_end_object(w);
    }
    put_extra(w, u->has_extra, &u->extra);
    json_end_object(w);
}

EXPORT int completion_result_to_json(const completion_result *r, char **ret, size_t *ret_length)
{
    struct buffer out = BUFFER_INIT(JSON_MAX_BYTES);
    struct json_writer w = json_writer(&out);

    if (!r || !ret)
        return -EINVAL;
    const Completion__V1__Completion *m = result_message(r);
    json_begin_object(&w);
    put_text(&w, "id", m->has_id, &m->id);
    put_text(&w, "object", m->has_object, &m->object);
    put_int(&w, "created", m->has_created, m->created);
    put_text(&w, "model", m->has_model, &m->model);
    put_text(&w, "system_fingerprint", m->has_system_fingerprint, &m->system_fingerprint);
    json_key(&w, "choices");
    json_begin_array(&w);
    for (size_t i = 0; i < m->n_choices; i++)
        put_choice(&w, r, i);
    json_end_array(&w);
    if (m->usage)
        put_usage(&w, m->usage);
    put_extra(&w, m->has_extra, &m->extra);
    json_end_object(&w);
    size_t length = buffer_length(&out);
    buffer_append_byte(&out, '\0');
    if (out.error) {
        int e = out.error == -EBADMSG ? -EBADMSG : -ENOMEM;
        buffer_done(&out);
        return e;
    }
    /* Nothing was consumed: the memory begins with the text. */
    *ret = (char *)out.data;
    if (ret_length)
        *ret_length = length;
    return 0;
}
