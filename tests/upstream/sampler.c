/*
 * Sampling. Owns a workspace and the arithmetic of the API's sampling parameters; knows neither
 * where the logits come from nor what the tokens say.
 */
#include "sampler.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct sampler {
    size_t n;
    double *weights;
    uint32_t *order;
    bool *is_seen;
};

/* ---- Random numbers: splitmix64 ---- */

uint64_t sampler_random_next(struct sampler_random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void sampler_seed(struct sampler_random *r, uint64_t seed, uint64_t stream)
{
    struct sampler_random of_seed = {seed}, of_stream = {stream};

    sampler_random_next(&of_seed);
    r->state = sampler_random_next(&of_seed) ^ sampler_random_next(&of_stream);
}

/* In [0, 1), with all the bits that a double has room for. */
static double next_fraction(struct sampler_random *r)
{
    return (double)(sampler_random_next(r) >> 11) * 0x1p-53;
}

/* ---- The sampler ---- */

int sampler_new(size_t n_tokens, struct sampler **ret)
{
    struct sampler *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->n = n_tokens;
    s->weights = calloc(n_tokens, sizeof *s->weights);
    s->order = calloc(n_tokens, sizeof *s->order);
    s->is_seen = calloc(n_tokens, sizeof *s->is_seen);
    if (!s->weights || !s->order || !s->is_seen) {
        sampler_free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

struct sampler *sampler_free(struct sampler *s)
{
    if (!s)
        return NULL;
    free(s->weights);
    free(s->order);
    free(s->is_seen);
    free(s);
    return NULL;
}

static void add_bias(const struct sampler_options *o, double *logits)
{
    for (size_t i = 0; i < o->n_biases; i++)
        logits[o->biases[i].id] += o->biases[i].value;
}

static void add_penalties(struct sampler *s, const struct sampler_options *o, double *logits,
                          const uint32_t *generated, size_t n)
{
    if (o->frequency_penalty == 0 && o->presence_penalty == 0)
        return;
    memset(s->is_seen, 0, s->n * sizeof *s->is_seen);
    for (size_t i = 0; i < n; i++) {
        uint32_t id = generated[i];
        logits[id] -= o->frequency_penalty;
        if (!s->is_seen[id])
            logits[id] -= o->presence_penalty;
        s->is_seen[id] = true;
    }
}

static uint32_t likeliest(const double *logits, size_t n)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static int compare_weights(const void *a, const void *b, void *weights)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const double *w = weights;

    if (w[x] != w[y])
        return w[x] > w[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Takes the weight of all tokens outside of the nucleus. Returns the weight that is left. */
static double narrow(struct sampler *s, double total, double top_p)
{
    double sum = 0;

    for (uint32_t i = 0; i < s->n; i++)
        s->order[i] = i;
    qsort_r(s->order, s->n, sizeof *s->order, compare_weights, s->weights);

    size_t n = 0;
    do
        sum += s->weights[s->order[n++]];
    while (n < s->n && sum < top_p * total);
    for (; n < s->n; n++)
        s->weights[s->order[n]] = 0;
    return sum;
}

static uint32_t draw(const struct sampler *s, double total, struct sampler_random *r)
{
    double left = next_fraction(r) * total;
    uint32_t last = 0;

    for (uint32_t i = 0; i < s->n; i++) {
        if (s->weights[i] <= 0)
            continue;
        last = i;
        if ((left -= s->weights[i]) < 0)
            break;
    }
    return last; /* rounding may have left a crumb behind the last one */
}

uint32_t sampler_choose(struct sampler *s, const struct sampler_options *options, double *logits,
                        const uint32_t *generated, size_t n_generated, struct sampler_random *r)
{
    double total = 0;

    add_bias(options, logits);
    add_penalties(s, options, logits, generated, n_generated);
    uint32_t best = likeliest(logits, s->n);
    if (options->temperature <= 0)
        return best;

    for (size_t i = 0; i < s->n; i++) {
        s->weights[i] = exp((logits[i] - logits[best]) / options->temperature);
        total += s->weights[i];
    }
    if (options->top_p < 1)
        total = narrow(s, total, options->top_p);
    return draw(s, total, r);
}
