/*
 * Chooses a token from logits, as the API's parameters say: bias and penalties are added, then the
 * temperature divides, then top_p narrows, then a seeded generator draws.
 */
#ifndef SAMPLER_H
#define SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler_bias {
    uint32_t id;
    double value;
};

struct sampler_options {
    double temperature; /* 0: the likeliest, of equals the one with the lowest id */
    double top_p;       /* the likeliest tokens with this share together; one at least */
    double frequency_penalty, presence_penalty;
    const struct sampler_bias *biases;
    size_t n_biases;
};

/* A generator of random numbers: the same state gives the same numbers. */
struct sampler_random {
    uint64_t state;
};

/* Streams of the same seed with other numbers have nothing in common. */
void sampler_seed(struct sampler_random *r, uint64_t seed, uint64_t stream);
uint64_t sampler_random_next(struct sampler_random *r);

struct sampler;

/* A workspace for vocabularies of n_tokens; any number of generations can share it, one token at a
 * time. 0 or -ENOMEM. */
int sampler_new(size_t n_tokens, struct sampler **ret);

/* Takes NULL; returns NULL. */
struct sampler *sampler_free(struct sampler *s);

/* logits: one for each token; changed. generated: the tokens chosen so far, for the penalties. */
uint32_t sampler_choose(struct sampler *s, const struct sampler_options *options, double *logits,
                        const uint32_t *generated, size_t n_generated, struct sampler_random *r);

#endif
