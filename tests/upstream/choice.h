/*
 * One choice being generated: a token a step. It cuts at stop sequences, keeps log probabilities
 * where asked, and gives out text as soon as it is sure: what may become a stop sequence, or is not
 * a whole character yet, is held back. Text that is given out is valid UTF-8; bytes that are not
 * become U+FFFD.
 */
#ifndef CHOICE_H
#define CHOICE_H

#include <stdbool.h>

#include "model.h"
#include "request.h"
#include "suffix.h"

/* What all choices of all requests share. */
struct choice_tools {
    const struct model *model;
    struct sampler *sampler;
    double *probabilities, *logits; /* one for each token of the vocabulary */
};

struct choice_candidate {
    uint32_t id;
    double logprob;
};

enum { CHOICE_TOP_MAX = REQUEST_LOGPROBS_MAX + 1 };

/* A token in the text, with the model's own probabilities: before bias, penalties, temperature and
 * top_p. */
struct choice_token {
    uint32_t id;
    bool has_logprob; /* not for the first one of an echoed prompt */
    double logprob;
    size_t start;                                /* in raw */
    struct choice_candidate top[CHOICE_TOP_MAX]; /* the likeliest first, the chosen one with them */
    size_t n_top;
};

struct choice {
    const struct request *request;
    const struct suffix *suffix;
    struct tokens context; /* prompt and what was generated, with room for a look at the suffix */
    size_t n_prompt, n_scored;
    struct sampler_random random;

    char *raw; /* bytes of the text */
    size_t raw_len, raw_capacity, generated_start;
    size_t taken, n_characters; /* of raw: given out */

    struct choice_token *tokens; /* only with logprobs */
    size_t n_tokens, tokens_capacity, n_tokens_taken;

    double sum_logprob; /* of what was drawn, the end of the text too */
    size_t n_drawn;
    const char *finish_reason; /* NULL: not yet */
};

/* 0 or -ENOMEM; choice_done() is due either way. request and suffix outlive the choice. */
int choice_init(struct choice *c, const struct choice_tools *tools, const struct request *request,
                const struct suffix *suffix, const struct tokens *prompt, uint64_t seed,
                uint64_t number);
void choice_done(struct choice *c);

/* Draws a token, or scores some of an echoed prompt. Nothing once finish_reason is set. 0 or
 * -ENOMEM. */
int choice_step(struct choice *c, const struct choice_tools *tools);

/* Tokens generated. */
size_t choice_n_generated(const struct choice *c);

/* Mean log probability of a token: what best_of ranks by. */
double choice_rank(const struct choice *c);

/* What is new and sure, for a reply: text, and the tokens that begin in it with their offsets. */
struct choice_piece {
    char *text; /* owned; not terminated, may hold NUL */
    size_t len;
    const struct choice_token *tokens; /* until the next step; NULL without logprobs */
    size_t *offsets;                   /* owned; in characters from the beginning of the text */
    size_t n_tokens;
};

/* 0 or -ENOMEM. A piece may be empty; choice_piece_done() is due on success. */
int choice_take(struct choice *c, struct choice_piece *ret);
void choice_piece_done(struct choice_piece *p);

#endif
