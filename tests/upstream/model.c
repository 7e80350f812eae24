/*
 * The n-gram model. Owns the counts; each order is a sorted array of contexts, each with a range in
 * an array of successors, found by binary search. Chooses nothing: that is the sampler's.
 */
#include "model.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What each count gives away to shorter contexts: small enough for sentences that can be read. */
#define DISCOUNT 0.3
/* Share of the single bytes in the mix at the very bottom. */
#define BYTES_SHARE 0.001

struct successor {
    uint32_t id, count;
};

struct context {
    uint32_t key[MODEL_ORDER]; /* the oldest first */
    size_t first, n;           /* in successors */
    double total;
};

struct order {
    struct context *contexts;
    size_t n_contexts;
    struct successor *successors;
};

struct model {
    struct vocabulary vocabulary;
    uint64_t fingerprint;
    double *unigram;                  /* by id */
    struct order orders[MODEL_ORDER]; /* orders[k - 1]: contexts of k tokens */
};

struct gram {
    uint32_t ids[MODEL_ORDER + 1]; /* context and successor, the rest is zero */
};

/* ---- Training: text to tokens ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Joins the lines of the next paragraph into `line`, which has room for the whole text. */
static size_t take_paragraph(const char *text, size_t len, size_t *position, char *line)
{
    size_t n = 0, i = *position;

    for (int n_breaks = 0; i < len && n_breaks < 2; i++) {
        if (text[i] == '\n')
            n_breaks += n > 0;
        else if (!is_space(text[i]))
            n_breaks = 0;
        if (!is_space(text[i]))
            line[n++] = text[i];
        else if (n > 0 && line[n - 1] != ' ')
            line[n++] = ' ';
    }
    *position = i;
    return n > 0 && line[n - 1] == ' ' ? n - 1 : n;
}

static int learn_words(struct vocabulary *v, const char *text, size_t len)
{
    while (len > 0) {
        size_t n = vocabulary_piece(text, len);
        int r = vocabulary_add(v, text, n);
        if (r < 0)
            return r;
        text += n;
        len -= n;
    }
    return 0;
}

/* All paragraphs as one sequence, with an end before the first and behind each. */
static int read_text(struct model *m, const char *text, size_t len, struct tokens *ret)
{
    char *line = malloc(len + 1);
    size_t position = 0, n;
    int r = line ? tokens_add(ret, VOCABULARY_END) : -ENOMEM;

    while (r == 0 && position < len) {
        if ((n = take_paragraph(text, len, &position, line)) == 0)
            continue;
        if ((r = learn_words(&m->vocabulary, line, n)) == 0 &&
            (r = vocabulary_encode(&m->vocabulary, line, n, ret)) == 0)
            r = tokens_add(ret, VOCABULARY_END);
    }
    free(line);
    return r < 0 ? r : ret->n < 2 ? -EINVAL : 0;
}

/* ---- Training: tokens to counts ---- */

static int compare_ids(const uint32_t *a, const uint32_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

static int compare_grams(const void *a, const void *b)
{
    return compare_ids(((const struct gram *)a)->ids, ((const struct gram *)b)->ids,
                       MODEL_ORDER + 1);
}

/* Sorted grams have their contexts, and in these their successors, side by side. */
static void count_grams(struct order *o, const struct gram *grams, size_t n, size_t k)
{
    size_t n_successors = 0;

    for (size_t i = 0; i < n; i++) {
        const uint32_t *ids = grams[i].ids;
        bool is_new = i == 0 || compare_ids(grams[i - 1].ids, ids, k) != 0;
        if (is_new) {
            struct context *c = &o->contexts[o->n_contexts++];
            memcpy(c->key, ids, k * sizeof *c->key);
            c->first = n_successors;
        }
        struct context *c = &o->contexts[o->n_contexts - 1];
        if (is_new || ids[k] != grams[i - 1].ids[k]) {
            o->successors[n_successors++].id = ids[k];
            c->n++;
        }
        o->successors[n_successors - 1].count++;
        c->total++;
    }
}

static int train_order(struct order *o, const struct tokens *text, size_t k)
{
    size_t n = text->n > k ? text->n - k : 0;
    struct gram *grams = calloc(n + 1, sizeof *grams);

    o->contexts = calloc(n + 1, sizeof *o->contexts);
    o->successors = calloc(n + 1, sizeof *o->successors);
    if (!grams || !o->contexts || !o->successors) {
        free(grams);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++)
        memcpy(grams[i].ids, text->ids + i, (k + 1) * sizeof *grams[i].ids);
    qsort(grams, n, sizeof *grams, compare_grams);
    count_grams(o, grams, n, k);
    free(grams);
    return 0;
}

/* The bottom of the mix: all words and the end alike, and a little for each byte. */
static double base_probability(const struct vocabulary *v, size_t id)
{
    if (id < VOCABULARY_END)
        return BYTES_SHARE / VOCABULARY_END;
    return (1 - BYTES_SHARE) / (double)(v->n - VOCABULARY_END);
}

static int train_unigram(struct model *m, const struct tokens *text)
{
    size_t n_seen = 0;

    m->unigram = calloc(m->vocabulary.n, sizeof *m->unigram);
    if (!m->unigram)
        return -ENOMEM;
    for (size_t i = 1; i < text->n; i++) /* nothing chose the end before the first text */
        if (m->unigram[text->ids[i]]++ == 0)
            n_seen++;
    double total = (double)(text->n - 1);
    for (size_t id = 0; id < m->vocabulary.n; id++) {
        double count = m->unigram[id];
        m->unigram[id] = (count > 0 ? count - DISCOUNT : 0) / total +
                         DISCOUNT * (double)n_seen / total * base_probability(&m->vocabulary, id);
    }
    return 0;
}

static int train(struct model *m, const char *text, size_t len)
{
    struct tokens sequence = {0};
    int r = vocabulary_init(&m->vocabulary);

    m->fingerprint = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        m->fingerprint = (m->fingerprint ^ (unsigned char)text[i]) * 1099511628211u;
    if (r == 0)
        r = read_text(m, text, len, &sequence);
    if (r == 0)
        r = train_unigram(m, &sequence);
    for (size_t k = 1; r == 0 && k <= MODEL_ORDER; k++)
        r = train_order(&m->orders[k - 1], &sequence, k);
    tokens_done(&sequence);
    return r;
}

int model_new(const char *text, size_t len, struct model **ret)
{
    struct model *m = calloc(1, sizeof *m);
    int r = m ? train(m, text, len) : -ENOMEM;

    if (r < 0) {
        model_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

struct model *model_free(struct model *m)
{
    if (!m)
        return NULL;
    for (size_t k = 0; k < MODEL_ORDER; k++) {
        free(m->orders[k].contexts);
        free(m->orders[k].successors);
    }
    free(m->unigram);
    vocabulary_done(&m->vocabulary);
    free(m);
    return NULL;
}

const struct vocabulary *model_vocabulary(const struct model *m)
{
    return &m->vocabulary;
}

uint64_t model_fingerprint(const struct model *m)
{
    return m->fingerprint;
}

/* ---- Asking ---- */

static const struct context *find_context(const struct order *o, const uint32_t *key, size_t k)
{
    size_t low = 0, high = o->n_contexts;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = compare_ids(o->contexts[middle].key, key, k);
        if (c == 0)
            return &o->contexts[middle];
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* The context of the last k tokens; NULL if they never stood so, and then no longer one did. */
static const struct context *context_at(const struct model *m, const uint32_t *context, size_t n,
                                        size_t k)
{
    static const uint32_t beginning = VOCABULARY_END;

    if (n == 0) {
        context = &beginning;
        n = 1;
    }
    return k <= n ? find_context(&m->orders[k - 1], context + n - k, k) : NULL;
}

/* What shorter contexts decide of what is asked in this one. */
static double shorter_share(const struct context *c)
{
    return DISCOUNT * (double)c->n / c->total;
}

void model_predict(const struct model *m, const uint32_t *context, size_t n, double *probabilities)
{
    const struct context *c;

    memcpy(probabilities, m->unigram, m->vocabulary.n * sizeof *probabilities);
    for (size_t k = 1; k <= MODEL_ORDER && (c = context_at(m, context, n, k)); k++) {
        const struct successor *s = m->orders[k - 1].successors + c->first;
        for (size_t id = 0; id < m->vocabulary.n; id++)
            probabilities[id] *= shorter_share(c);
        for (size_t i = 0; i < c->n; i++)
            probabilities[s[i].id] += (s[i].count - DISCOUNT) / c->total;
    }
}

static double count_of(const struct order *o, const struct context *c, uint32_t id)
{
    size_t low = c->first, high = c->first + c->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (o->successors[middle].id == id)
            return o->successors[middle].count;
        if (o->successors[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

double model_probability(const struct model *m, const uint32_t *context, size_t n, uint32_t id)
{
    double p = m->unigram[id];
    const struct context *c;

    for (size_t k = 1; k <= MODEL_ORDER && (c = context_at(m, context, n, k)); k++) {
        double count = count_of(&m->orders[k - 1], c, id);
        p = p * shorter_share(c) + (count > 0 ? count - DISCOUNT : 0) / c->total;
    }
    return p;
}

double model_frequency(const struct model *m, uint32_t id)
{
    return m->unigram[id];
}
