/*
 * The body of POST /v1/completions: JSON to values, with the API's defaults, and refusals of what
 * the API refuses: unknown members, wrong types, values out of range, members that don't go
 * together, an unknown model, more tokens than the context holds.
 */
#ifndef REQUEST_H
#define REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "refusal.h"
#include "sampler.h"
#include "vocabulary.h"

enum {
    REQUEST_CONTEXT_MAX = 2048, /* tokens of prompt, suffix and completion */
    REQUEST_STOPS_MAX = 4,
    REQUEST_LOGPROBS_MAX = 5,
    REQUEST_CHOICES_MAX = 512, /* generated for one request, over all its prompts */
    REQUEST_BODY_MAX_BYTES = 4 << 20,
};

struct request_stop {
    char *text; /* owned; may hold NUL */
    size_t len; /* at least 1 */
};

struct request {
    struct tokens *prompts; /* n_prompts, at least one; each may be empty */
    size_t n_prompts;
    struct tokens suffix;
    struct request_stop stops[REQUEST_STOPS_MAX];
    size_t n_stops;
    struct sampler_options sampling;
    struct sampler_bias *biases;                    /* what sampling points to */
    int64_t n, best_of, max_tokens, logprobs, seed; /* logprobs -1: none */
    bool has_best_of, has_seed, has_stream_options, has_suffix;
    bool echo, stream, include_usage, include_obfuscation;
};

/*
 * model: the only name that is served. 0: request_done(ret) is due. -EINVAL, -ENOMEM: refusal is
 * filled, and nothing is due.
 */
int request_parse(const char *body, size_t len, const char *model, const struct vocabulary *v,
                  struct request *ret, struct refusal *refusal);

void request_done(struct request *r);

#endif
