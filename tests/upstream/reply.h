/*
 * The JSON of answers: completions, chunks of a stream as events, errors. Appends to a buffer; 0 or
 * -ENOMEM, which leaves nothing appended.
 */
#ifndef REPLY_H
#define REPLY_H

#include <time.h>

#include "choice.h"
#include "refusal.h"

struct evbuffer;
struct json_object;

/* What an answer and all its chunks say alike. */
struct reply_head {
    char id[32], fingerprint[16];
    time_t created;
    const char *model;
    const struct vocabulary *vocabulary;
};

struct reply_usage {
    size_t n_prompt, n_completion;
};

struct reply_choice {
    struct choice_piece piece;
    size_t index;
    const char *finish_reason; /* NULL: null */
};

int reply_completion(const struct reply_head *head, const struct reply_choice *choices, size_t n,
                     bool logprobs, const struct reply_usage *usage, struct evbuffer *out);

struct reply_chunk_options {
    bool logprobs, usage;    /* the latter: the stream will end with usage, until then it is null */
    const char *obfuscation; /* NULL: none */
};

int reply_chunk(const struct reply_head *head, const struct reply_choice *choice,
                const struct reply_chunk_options *options, struct evbuffer *out);

/* The chunk without choices. */
int reply_usage_chunk(const struct reply_head *head, const struct reply_usage *usage,
                      const char *obfuscation, struct evbuffer *out);

int reply_done(struct evbuffer *out);

int reply_error(const struct refusal *r, struct evbuffer *out);

/* Any other object; takes it over. NULL: -ENOMEM. */
int reply_object(struct json_object *object, struct evbuffer *out);

#endif
