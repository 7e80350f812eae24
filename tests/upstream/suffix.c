/*
 * The say of a suffix in what comes before it. Owns one number per token, made once per request;
 * the model stays as it is.
 */
#include "suffix.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Tokens that the training text does not have are rarer than this. */
static const double unseen = 1e-6;

int suffix_init(struct suffix *s, const struct model *m, const struct tokens *tokens)
{
    const size_t n_words = model_vocabulary(m)->n;

    *s = (struct suffix){0};
    if (tokens->n == 0 || model_frequency(m, tokens->ids[0]) < unseen)
        return 0;
    s->lift = calloc(n_words, sizeof *s->lift);
    if (!s->lift)
        return -ENOMEM;
    for (; s->n < tokens->n && s->n < SUFFIX_LOOKAHEAD; s->n++)
        s->ids[s->n] = tokens->ids[s->n];

    s->unconditional = model_frequency(m, s->ids[0]);
    for (size_t i = 1; i < s->n; i++)
        s->unconditional *= model_probability(m, s->ids, i, s->ids[i]);
    for (uint32_t id = 0; id < n_words; id++)
        s->lift[id] =
            log1p(model_probability(m, &id, 1, s->ids[0]) / model_frequency(m, s->ids[0]));
    return 0;
}

void suffix_done(struct suffix *s)
{
    free(s->lift);
    *s = (struct suffix){0};
}

/* The log of how well the text ends before the next token. */
static double fit(const struct suffix *s, const struct model *m, uint32_t *scratch, size_t n)
{
    double first = model_probability(m, scratch, n, s->ids[0]), joint = 1;

    for (size_t i = 0; i < s->n; i++) {
        joint *= model_probability(m, scratch, n + i, s->ids[i]);
        scratch[n + i] = s->ids[i];
    }
    return log(first) + log1p(joint / s->unconditional);
}

void suffix_adjust(const struct suffix *s, const struct model *m, uint32_t *scratch, size_t n,
                   double *logits)
{
    const size_t n_words = model_vocabulary(m)->n;

    if (s->n == 0)
        return;
    for (size_t id = 0; id < n_words; id++)
        logits[id] += s->lift[id];
    logits[VOCABULARY_END] = fit(s, m, scratch, n);
}
