/*
 * A language model made of counts: how often each token of a text followed the up to three tokens
 * before it. Longer contexts are mixed with shorter ones (interpolated absolute discounting), down
 * to a small share for tokens that the text never has, so that every token has a probability above
 * zero and all of them add up to one.
 */
#ifndef MODEL_H
#define MODEL_H

#include "vocabulary.h"

enum { MODEL_ORDER = 3 }; /* tokens of context that count */

struct model;

/*
 * Trains on a text: its paragraphs, which empty lines part, are the texts that the model learns to
 * write; a line break inside of one is a space. -EINVAL: there is no word in it. -ENOMEM.
 */
int model_new(const char *text, size_t len, struct model **ret);

/* Takes NULL; returns NULL. */
struct model *model_free(struct model *m);

const struct vocabulary *model_vocabulary(const struct model *m);

/* A number that another training text would not give. */
uint64_t model_fingerprint(const struct model *m);

/* The probability of every token after a context, of which the end counts; an empty one is the
 * beginning of a text. probabilities: one for each token of the vocabulary. */
void model_predict(const struct model *m, const uint32_t *context, size_t n, double *probabilities);

/* The same for one token. */
double model_probability(const struct model *m, const uint32_t *context, size_t n, uint32_t id);

/* The same wherever it may stand: how often the training text has it. */
double model_frequency(const struct model *m, uint32_t id);

#endif
