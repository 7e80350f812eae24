/*
 * How a suffix changes what is generated. Tokens that tend to stand right before the suffix become
 * likelier (a backward model: by Bayes, P(suffix | token) / P(suffix) is how much likelier the
 * token is when the suffix follows), and the text ends where the suffix fits: the end takes the
 * place of the suffix's first token, lifted by how well its first tokens go on from here.
 *
 * Only the first few tokens of a suffix are looked at. A suffix that begins with a token that the
 * training text does not have changes nothing.
 */
#ifndef SUFFIX_H
#define SUFFIX_H

#include "model.h"

enum { SUFFIX_LOOKAHEAD = 3 };

/* Zeroed: no suffix. */
struct suffix {
    uint32_t ids[SUFFIX_LOOKAHEAD];
    size_t n;
    double unconditional; /* probability of these tokens anywhere */
    double *lift;         /* by token: the log of how much likelier the suffix makes it */
};

/* 0 or -ENOMEM. */
int suffix_init(struct suffix *s, const struct model *m, const struct tokens *tokens);
void suffix_done(struct suffix *s);

/* Adds the suffix's say to the logits of the next token. scratch has room for n + SUFFIX_LOOKAHEAD
 * tokens of which the first n are the context. */
void suffix_adjust(const struct suffix *s, const struct model *m, uint32_t *scratch, size_t n,
                   double *logits);

#endif
