/* Results: a Completion as it came from the daemon, and views of it. */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

int result_view(completion_result *r, const uint8_t *data, size_t len)
{
    const ProtobufCMessage *message = NULL;
    int e = view_read(&r->view, &completion__v1__completion__descriptor, data, len, &message);

    r->message = (const Completion__V1__Completion *)message;
    r->data = e == 0 ? data : NULL;
    r->len = e == 0 ? len : 0;
    return e;
}

int result_new(struct buffer *message, completion_result **ret)
{
    completion_result *r = message->error ? NULL : calloc(1, sizeof *r);

    if (!r)
        return -ENOMEM;
    r->own = *message;
    *message = BUFFER_INIT(message->limit_bytes);
    int e = result_view(r, buffer_bytes(&r->own), buffer_length(&r->own));
    if (e < 0) {
        completion_result_free(r);
        return e;
    }
    *ret = r;
    return 0;
}

void result_done(completion_result *r)
{
    view_done(&r->view);
    buffer_done(&r->own);
}

/* Never one of nothing: only result_view() makes that, and it is not handed out. */
const Completion__V1__Completion *result_message(const completion_result *r)
{
    return r->message;
}

EXPORT completion_result *completion_result_free(completion_result *r)
{
    /* One that is part of a call goes with it. */
    if (r && !r->is_borrowed) {
        result_done(r);
        free(r);
    }
    return NULL;
}

EXPORT int completion_result_copy(const completion_result *r, completion_result **ret)
{
    struct buffer bytes = BUFFER_INIT(SIZE_MAX);

    if (!r || !ret)
        return -EINVAL;
    buffer_append(&bytes, r->data, r->len);
    int e = result_new(&bytes, ret);
    buffer_done(&bytes);
    return e;
}

static completion_text view(protobuf_c_boolean has, const ProtobufCBinaryData *data)
{
    /* protobuf-c has no data where there are no bytes. */
    return has ? (completion_text){data->data ? (const char *)data->data : "", data->len}
               : (completion_text){NULL, 0};
}

#define RESULT_TEXT(name)                                                                          \
    EXPORT completion_text completion_result_##name(const completion_result *r)                    \
    {                                                                                              \
        const Completion__V1__Completion *m = r ? result_message(r) : NULL;                        \
        return m ? view(m->has_##name, &m->name) : (completion_text){NULL, 0};                     \
    }
RESULT_TEXT(id)
RESULT_TEXT(model)
RESULT_TEXT(object)
RESULT_TEXT(system_fingerprint)
RESULT_TEXT(extra)

EXPORT int completion_result_created(const completion_result *r, int64_t *ret)
{
    const Completion__V1__Completion *m = r ? result_message(r) : NULL;

    if (!m || !m->has_created)
        return 0;
    if (ret)
        *ret = m->created;
    return 1;
}

/* ---- Usage ---- */

EXPORT int completion_result_has_usage(const completion_result *r)
{
    return r && result_message(r)->usage != NULL;
}

EXPORT int completion_result_usage(const completion_result *r, enum completion_usage_field field,
                                   int64_t *ret)
{
    const Completion__V1__CompletionUsage *u = r ? result_message(r)->usage : NULL;
    const Completion__V1__CompletionTokensDetails *c = u ? u->completion_tokens_details : NULL;
    const Completion__V1__PromptTokensDetails *p = u ? u->prompt_tokens_details : NULL;

#define FIELD(name, message, member)                                                               \
    case COMPLETION_USAGE_##name:                                                                  \
        if (!(message) || !(message)->has_##member)                                                \
            return 0;                                                                              \
        if (ret)                                                                                   \
            *ret = (message)->member;                                                              \
        return 1;
    switch (field) {
        FIELD(COMPLETION_TOKENS, u, completion_tokens)
        FIELD(PROMPT_TOKENS, u, prompt_tokens)
        FIELD(TOTAL_TOKENS, u, total_tokens)
        FIELD(ACCEPTED_PREDICTION_TOKENS, c, accepted_prediction_tokens)
        FIELD(COMPLETION_AUDIO_TOKENS, c, audio_tokens)
        FIELD(REASONING_TOKENS, c, reasoning_tokens)
        FIELD(REJECTED_PREDICTION_TOKENS, c, rejected_prediction_tokens)
        FIELD(COMPLETION_TEXT_TOKENS, c, text_tokens)
        FIELD(PROMPT_AUDIO_TOKENS, p, audio_tokens)
        FIELD(CACHED_TOKENS, p, cached_tokens)
        FIELD(CACHE_WRITE_TOKENS, p, cache_write_tokens)
        FIELD(IMAGE_TOKENS, p, image_tokens)
        FIELD(PROMPT_TEXT_TOKENS, p, text_tokens)
    }
#undef FIELD
    return 0;
}

#define USAGE_EXTRA(name, path)                                                                    \
    EXPORT completion_text completion_usage_##name(const completion_result *r)                     \
    {                                                                                              \
        const Completion__V1__CompletionUsage *u = r ? result_message(r)->usage : NULL;            \
        return u && (path) ? view((path)->has_extra, &(path)->extra) : (completion_text){NULL, 0}; \
    }
USAGE_EXTRA(extra, u)
USAGE_EXTRA(completion_tokens_extra, u->completion_tokens_details)
USAGE_EXTRA(prompt_tokens_extra, u->prompt_tokens_details)

/* ---- Choices ---- */

static const Completion__V1__CompletionChoice *choice_at(const completion_result *r, size_t i)
{
    return r && i < result_message(r)->n_choices ? result_message(r)->choices[i] : NULL;
}

EXPORT size_t completion_result_n_choices(const completion_result *r)
{
    return r ? result_message(r)->n_choices : 0;
}

EXPORT int completion_choice_index(const completion_result *r, size_t i, int32_t *ret)
{
    const Completion__V1__CompletionChoice *c = choice_at(r, i);

    if (!c || !c->has_index)
        return 0;
    if (ret)
        *ret = c->index;
    return 1;
}

EXPORT completion_text completion_choice_text(const completion_result *r, size_t i)
{
    const Completion__V1__CompletionChoice *c = choice_at(r, i);

    return c ? view(c->has_text, &c->text) : (completion_text){NULL, 0};
}

EXPORT completion_text completion_choice_extra(const completion_result *r, size_t i)
{
    const Completion__V1__CompletionChoice *c = choice_at(r, i);

    return c ? view(c->has_extra, &c->extra) : (completion_text){NULL, 0};
}

EXPORT enum completion_finish_reason completion_choice_finish_reason(const completion_result *r,
                                                                     size_t i)
{
    const Completion__V1__CompletionChoice *c = choice_at(r, i);

    if (!c || !c->has_finish_reason)
        return COMPLETION_FINISH_UNSPECIFIED;
    /* A newer daemon may know more of them. */
    return (unsigned)c->finish_reason > COMPLETION_FINISH_OTHER
               ? COMPLETION_FINISH_OTHER
               : (enum completion_finish_reason)c->finish_reason;
}

EXPORT completion_text completion_choice_finish_reason_text(const completion_result *r, size_t i)
{
    static const completion_text words[] = {
        [COMPLETION_FINISH_UNSPECIFIED] = {NULL, 0},
        [COMPLETION_FINISH_STOP] = {"stop", 4},
        [COMPLETION_FINISH_LENGTH] = {"length", 6},
        [COMPLETION_FINISH_CONTENT_FILTER] = {"content_filter", 14},
    };
    enum completion_finish_reason reason = completion_choice_finish_reason(r, i);
    const Completion__V1__CompletionChoice *c = choice_at(r, i);

    return reason == COMPLETION_FINISH_OTHER
               ? view(c->has_finish_reason_text, &c->finish_reason_text)
               : words[reason];
}

/* ---- Logprobs ---- */

static const Completion__V1__CompletionLogprobs *logprobs_of(const completion_result *r, size_t i)
{
    const Completion__V1__CompletionChoice *c = choice_at(r, i);

    return c ? c->logprobs : NULL;
}

EXPORT int completion_choice_has_logprobs(const completion_result *r, size_t i)
{
    return logprobs_of(r, i) != NULL;
}

EXPORT completion_text completion_logprobs_extra(const completion_result *r, size_t i)
{
    const Completion__V1__CompletionLogprobs *l = logprobs_of(r, i);

    return l ? view(l->has_extra, &l->extra) : (completion_text){NULL, 0};
}

EXPORT size_t completion_logprobs_n_tokens(const completion_result *r, size_t i)
{
    const Completion__V1__CompletionLogprobs *l = logprobs_of(r, i);

    return l ? l->n_tokens : 0;
}

EXPORT completion_text completion_logprobs_token(const completion_result *r, size_t i, size_t k)
{
    const Completion__V1__CompletionLogprobs *l = logprobs_of(r, i);

    return l && k < l->n_tokens ? view(1, &l->tokens[k]) : (completion_text){NULL, 0};
}

EXPORT int completion_logprobs_text_offset(const completion_result *r, size_t i, size_t k,
                                           int32_t *ret)
{
    const Completion__V1__CompletionLogprobs *l = logprobs_of(r, i);

    if (!l || k >= l->n_text_offset)
        return 0;
    if (ret)
        *ret = l->text_offset[k];
    return 1;
}

EXPORT int completion_logprobs_token_logprob(const completion_result *r, size_t i, size_t k,
                                             double *ret)
{
    const Completion__V1__CompletionLogprobs *l = logprobs_of(r, i);

    if (!l || k >= l->n_token_logprobs || !l->token_logprobs[k]->has_logprob)
        return 0;
    if (ret)
        *ret = l->token_logprobs[k]->logprob;
    return 1;
}

EXPORT int completion_logprobs_n_top(const completion_result *r, size_t i, size_t k)
{
    const Completion__V1__CompletionLogprobs *l = logprobs_of(r, i);

    if (!l || k >= l->n_top_logprobs)
        return 0;
    return l->top_logprobs[k]->is_null ? -1 : (int)l->top_logprobs[k]->n_entries;
}

static const Completion__V1__TopLogprob *top_of(const completion_result *r, size_t i, size_t k,
                                                size_t rank)
{
    int n = completion_logprobs_n_top(r, i, k);

    return n < 0 || rank >= (size_t)n ? NULL : logprobs_of(r, i)->top_logprobs[k]->entries[rank];
}

EXPORT completion_text completion_logprobs_top_token(const completion_result *r, size_t i, size_t k,
                                                     size_t rank)
{
    const Completion__V1__TopLogprob *t = top_of(r, i, k, rank);

    return t ? view(t->has_token, &t->token) : (completion_text){NULL, 0};
}

EXPORT int completion_logprobs_top_logprob(const completion_result *r, size_t i, size_t k,
                                           size_t rank, double *ret)
{
    const Completion__V1__TopLogprob *t = top_of(r, i, k, rank);

    if (!t || !t->has_logprob)
        return 0;
    if (ret)
        *ret = t->logprob;
    return 1;
}
