/*
 * A Completion on one line, for tests to compare with: what protobuf-c reads in the bytes, all that
 * is present and nothing else.
 *
 *     id="c" [0 text="A" finish=STOP] usage(prompt=1 total=2) extra={"x":1}
 *
 * Strings stand between quotes as they are, but NUL as \0; absent is absent, null is null.
 */
#ifndef COMPLETION_TEXT_H
#define COMPLETION_TEXT_H

#include <stdbool.h>

#include "buffer.h"
#include "completion/v1/completion.pb-c.h"

#define TEXT_IF(has, ...)                                                                          \
    do {                                                                                           \
        if (has)                                                                                   \
            buffer_printf(out, __VA_ARGS__);                                                       \
    } while (0)

static inline void text_bytes(struct buffer *out, ProtobufCBinaryData s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i])
            buffer_append_byte(out, s.data[i]);
        else
            buffer_append_string(out, "\\0");
}

static inline void text_string(struct buffer *out, const char *name, int has, ProtobufCBinaryData s)
{
    if (!has)
        return;
    buffer_printf(out, " %s=\"", name);
    text_bytes(out, s);
    buffer_append_byte(out, '"');
}

static inline void text_extra(struct buffer *out, int has, ProtobufCBinaryData s)
{
    if (!has)
        return;
    buffer_append_string(out, " extra=");
    text_bytes(out, s);
}

static inline void text_logprob(struct buffer *out, int has, double value)
{
    if (has)
        buffer_printf(out, "%.17g", value);
    else
        buffer_append_string(out, "null");
}

static inline void text_top_logprobs(struct buffer *out, const Completion__V1__TopLogprobs *top)
{
    if (top->has_is_null && top->is_null) {
        buffer_append_string(out, "null");
        return;
    }
    buffer_append_byte(out, '{');
    for (size_t i = 0; i < top->n_entries; i++) {
        TEXT_IF(i > 0, ",");
        text_bytes(out, top->entries[i]->token);
        buffer_append_byte(out, ':');
        text_logprob(out, top->entries[i]->has_logprob, top->entries[i]->logprob);
    }
    buffer_append_byte(out, '}');
}

static inline void text_logprobs(struct buffer *out, const Completion__V1__CompletionLogprobs *l)
{
    buffer_append_string(out, " logprobs(");
    for (size_t i = 0; i < l->n_tokens; i++) {
        buffer_append_byte(out, '<');
        text_bytes(out, l->tokens[i]);
        buffer_append_byte(out, '>');
    }
    for (size_t i = 0; i < l->n_token_logprobs; i++) {
        buffer_append_byte(out, ' ');
        text_logprob(out, l->token_logprobs[i]->has_logprob, l->token_logprobs[i]->logprob);
    }
    for (size_t i = 0; i < l->n_top_logprobs; i++) {
        buffer_append_byte(out, ' ');
        text_top_logprobs(out, l->top_logprobs[i]);
    }
    for (size_t i = 0; i < l->n_text_offset; i++)
        buffer_printf(out, " @%d", (int)l->text_offset[i]);
    text_extra(out, l->has_extra, l->extra);
    buffer_append_byte(out, ')');
}

static inline void text_choice(struct buffer *out, const Completion__V1__CompletionChoice *c)
{
    buffer_append_string(out, " [");
    TEXT_IF(c->has_index, "%d", (int)c->index);
    text_string(out, "text", c->has_text, c->text);
    if (c->has_finish_reason) {
        const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
            &completion__v1__finish_reason__descriptor, (int)c->finish_reason);
        buffer_printf(out, " finish=%s",
                      value ? value->name + sizeof "FINISH_REASON_" - 1 : "UNKNOWN");
    }
    text_string(out, "finish_text", c->has_finish_reason_text, c->finish_reason_text);
    if (c->logprobs)
        text_logprobs(out, c->logprobs);
    text_extra(out, c->has_extra, c->extra);
    buffer_append_byte(out, ']');
}

#define TEXT_COUNT(message, member, name)                                                          \
    TEXT_IF((message)->has_##member, " " name "=%lld", (long long)(message)->member)

static inline void text_usage(struct buffer *out, const Completion__V1__CompletionUsage *u)
{
    buffer_append_string(out, " usage(");
    TEXT_COUNT(u, prompt_tokens, "prompt");
    TEXT_COUNT(u, completion_tokens, "completion");
    TEXT_COUNT(u, total_tokens, "total");
    if (u->completion_tokens_details) {
        const Completion__V1__CompletionTokensDetails *d = u->completion_tokens_details;
        buffer_append_string(out, " of completion(");
        TEXT_COUNT(d, accepted_prediction_tokens, "accepted");
        TEXT_COUNT(d, audio_tokens, "audio");
        TEXT_COUNT(d, reasoning_tokens, "reasoning");
        TEXT_COUNT(d, rejected_prediction_tokens, "rejected");
        TEXT_COUNT(d, text_tokens, "text");
        text_extra(out, d->has_extra, d->extra);
        buffer_append_byte(out, ')');
    }
    if (u->prompt_tokens_details) {
        const Completion__V1__PromptTokensDetails *d = u->prompt_tokens_details;
        buffer_append_string(out, " of prompt(");
        TEXT_COUNT(d, audio_tokens, "audio");
        TEXT_COUNT(d, cached_tokens, "cached");
        TEXT_COUNT(d, cache_write_tokens, "written");
        TEXT_COUNT(d, image_tokens, "image");
        TEXT_COUNT(d, text_tokens, "text");
        text_extra(out, d->has_extra, d->extra);
        buffer_append_byte(out, ')');
    }
    text_extra(out, u->has_extra, u->extra);
    buffer_append_byte(out, ')');
}

/* False if the bytes are no Completion, or have a field that the schema has not. */
static inline bool completion_text(struct buffer *out, const uint8_t *wire, size_t len)
{
    Completion__V1__Completion *c = completion__v1__completion__unpack(NULL, len, wire);

    if (!c || c->base.n_unknown_fields > 0)
        return false;
    text_string(out, "id", c->has_id, c->id);
    text_string(out, "object", c->has_object, c->object);
    TEXT_COUNT(c, created, "created");
    text_string(out, "model", c->has_model, c->model);
    for (size_t i = 0; i < c->n_choices; i++)
        text_choice(out, c->choices[i]);
    text_string(out, "fingerprint", c->has_system_fingerprint, c->system_fingerprint);
    if (c->usage)
        text_usage(out, c->usage);
    text_extra(out, c->has_extra, c->extra);
    completion__v1__completion__free_unpacked(c, NULL);
    return true;
}

#endif
