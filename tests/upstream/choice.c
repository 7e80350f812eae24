/*
 * One choice. Owns its text, its tokens and where it stops; the arithmetic of sampling is the
 * sampler's, the shape of replies is the reply's.
 */
#include "choice.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* Of an echoed prompt, in one step: about as much work as it is to draw a token. */
enum { SCORED_PER_STEP = 8 };

/* ---- Beginning and end ---- */

static int append_raw(struct choice *c, const char *bytes, size_t len)
{
    if (len > c->raw_capacity - c->raw_len) {
        size_t capacity = 2 * c->raw_capacity + len + 64;
        char *raw = realloc(c->raw, capacity);
        if (!raw)
            return -ENOMEM;
        c->raw = raw;
        c->raw_capacity = capacity;
    }
    memcpy(c->raw + c->raw_len, bytes, len);
    c->raw_len += len;
    return 0;
}

static int echo(struct choice *c, const struct vocabulary *v, const struct tokens *prompt)
{
    int r = 0;

    for (size_t i = 0; i < prompt->n && r == 0; i++) {
        size_t len;
        const char *bytes = vocabulary_bytes(v, prompt->ids[i], &len);
        r = append_raw(c, bytes, len);
    }
    c->generated_start = c->raw_len;
    return r;
}

int choice_init(struct choice *c, const struct choice_tools *tools, const struct request *request,
                const struct suffix *suffix, const struct tokens *prompt, uint64_t seed,
                uint64_t number)
{
    int r = 0;

    *c = (struct choice){.request = request, .suffix = suffix, .n_prompt = prompt->n};
    sampler_seed(&c->random, seed, number);
    for (size_t i = 0; i < prompt->n && r == 0; i++)
        r = tokens_add(&c->context, prompt->ids[i]);
    if (r == 0 && request->echo)
        r = echo(c, model_vocabulary(tools->model), prompt);
    return r;
}

void choice_done(struct choice *c)
{
    tokens_done(&c->context);
    free(c->raw);
    free(c->tokens);
    *c = (struct choice){0};
}

/* ---- Log probabilities ---- */

/* The n likeliest, the likeliest first; of equals the lower id first. */
static size_t find_top(const double *probabilities, size_t n_words, size_t n,
                       struct choice_candidate *top)
{
    size_t n_top = 0;

    for (uint32_t id = 0; n > 0 && id < n_words; id++) {
        if (n_top == n && probabilities[id] <= top[n - 1].logprob)
            continue;
        size_t i = n_top < n ? n_top++ : n - 1;
        for (; i > 0 && top[i - 1].logprob < probabilities[id]; i--)
            top[i] = top[i - 1];
        top[i] = (struct choice_candidate){id, probabilities[id]};
    }
    for (size_t i = 0; i < n_top; i++)
        top[i].logprob = log(top[i].logprob);
    return n_top;
}

static void score(struct choice_token *t, const double *probabilities, size_t n_words,
                  size_t n_asked)
{
    t->has_logprob = true;
    t->logprob = log(probabilities[t->id]);
    t->n_top = find_top(probabilities, n_words, n_asked, t->top);
    for (size_t i = 0; i < t->n_top; i++)
        if (t->top[i].id == t->id)
            return;
    t->top[t->n_top++] = (struct choice_candidate){t->id, t->logprob};
}

/* probabilities NULL: it has none. */
static int record_token(struct choice *c, const struct choice_tools *tools, uint32_t id,
                        size_t start, const double *probabilities)
{
    if (c->request->logprobs < 0)
        return 0;
    if (c->n_tokens == c->tokens_capacity) {
        size_t capacity = c->tokens_capacity ? 2 * c->tokens_capacity : 16;
        struct choice_token *tokens = reallocarray(c->tokens, capacity, sizeof *tokens);
        if (!tokens)
            return -ENOMEM;
        c->tokens = tokens;
        c->tokens_capacity = capacity;
    }
    struct choice_token *t = &c->tokens[c->n_tokens++];
    *t = (struct choice_token){.id = id, .start = start};
    if (probabilities)
        score(t, probabilities, model_vocabulary(tools->model)->n, (size_t)c->request->logprobs);
    return 0;
}

static bool is_scoring(const struct choice *c)
{
    return c->request->echo && c->request->logprobs >= 0 && c->n_scored < c->n_prompt;
}

static int score_prompt(struct choice *c, const struct choice_tools *tools)
{
    int r = 0;

    for (int i = 0; i < SCORED_PER_STEP && is_scoring(c) && r == 0; i++) {
        const struct choice_token *last = c->n_tokens ? &c->tokens[c->n_tokens - 1] : NULL;
        size_t start = 0, len = 0;
        if (last) {
            vocabulary_bytes(model_vocabulary(tools->model), last->id, &len);
            start = last->start + len;
            model_predict(tools->model, c->context.ids, c->n_scored, tools->probabilities);
        }
        r = record_token(c, tools, c->context.ids[c->n_scored++], start,
                         last ? tools->probabilities : NULL);
    }
    return r;
}

/* ---- Stop sequences ---- */

/* Where the first stop sequence begins that was completed by the last `added` bytes; raw_len: there
 * is none. */
static size_t find_stop(const struct choice *c, size_t added)
{
    size_t first = c->raw_len;

    for (size_t i = 0; i < c->request->n_stops; i++) {
        const struct request_stop *stop = &c->request->stops[i];
        size_t from = c->raw_len - added, back = stop->len - 1;
        from = from - c->generated_start > back ? from - back : c->generated_start;
        const char *at = memmem(c->raw + from, c->raw_len - from, stop->text, stop->len);
        if (at && (size_t)(at - c->raw) < first)
            first = (size_t)(at - c->raw);
    }
    return first;
}

/* How many bytes at the end may be the beginning of a stop sequence. */
static size_t n_held_back(const struct choice *c)
{
    size_t held = 0;

    for (size_t i = 0; i < c->request->n_stops; i++) {
        const struct request_stop *stop = &c->request->stops[i];
        size_t n = stop->len - 1, there = c->raw_len - c->generated_start;
        for (n = n < there ? n : there; n > held; n--)
            if (!memcmp(c->raw + c->raw_len - n, stop->text, n))
                held = n;
    }
    return held;
}

/* ---- Steps ---- */

size_t choice_n_generated(const struct choice *c)
{
    return c->context.n - c->n_prompt;
}

double choice_rank(const struct choice *c)
{
    return c->n_drawn ? c->sum_logprob / (double)c->n_drawn : 0;
}

/* Room for what the suffix puts behind the context for a moment. */
static int reserve_lookahead(struct tokens *t)
{
    size_t n = t->n;
    int r = 0;

    for (int i = 0; i < SUFFIX_LOOKAHEAD && r == 0; i++)
        r = tokens_add(t, 0);
    t->n = n;
    return r;
}

static int draw(struct choice *c, const struct choice_tools *tools, uint32_t *ret)
{
    size_t n_words = model_vocabulary(tools->model)->n;
    int r = reserve_lookahead(&c->context);

    if (r < 0)
        return r;
    model_predict(tools->model, c->context.ids, c->context.n, tools->probabilities);
    for (size_t i = 0; i < n_words; i++)
        tools->logits[i] = log(tools->probabilities[i]);
    suffix_adjust(c->suffix, tools->model, c->context.ids, c->context.n, tools->logits);
    uint32_t id = sampler_choose(tools->sampler, &c->request->sampling, tools->logits,
                                 c->context.ids + c->n_prompt, choice_n_generated(c), &c->random);
    c->sum_logprob += log(tools->probabilities[id]);
    c->n_drawn++;
    *ret = id;
    return 0;
}

static int add_token(struct choice *c, const struct choice_tools *tools, uint32_t id)
{
    size_t len;
    const char *bytes = vocabulary_bytes(model_vocabulary(tools->model), id, &len);
    int r = record_token(c, tools, id, c->raw_len, tools->probabilities);

    if (r < 0 || (r = tokens_add(&c->context, id)) < 0 || (r = append_raw(c, bytes, len)) < 0)
        return r;
    size_t cut = find_stop(c, len);
    if (cut < c->raw_len) {
        c->raw_len = cut;
        while (c->n_tokens > c->n_tokens_taken && c->tokens[c->n_tokens - 1].start >= cut)
            c->n_tokens--;
        c->finish_reason = "stop";
    }
    return 0;
}

int choice_step(struct choice *c, const struct choice_tools *tools)
{
    uint32_t id;

    if (c->finish_reason)
        return 0;
    if (is_scoring(c))
        return score_prompt(c, tools);
    if (choice_n_generated(c) >= (size_t)c->request->max_tokens) {
        c->finish_reason = "length";
        return 0;
    }
    int r = draw(c, tools, &id);
    if (r < 0)
        return r;
    if (id == VOCABULARY_END) {
        c->finish_reason = "stop";
        return 0;
    }
    if ((r = add_token(c, tools, id)) == 0 && !c->finish_reason &&
        choice_n_generated(c) >= (size_t)c->request->max_tokens)
        c->finish_reason = "length";
    return r;
}

/* ---- Giving out ---- */

static int allocate_piece(struct choice_piece *p, size_t n_bytes, size_t n_tokens)
{
    p->text = malloc(n_bytes * strlen(UTF8_REPLACEMENT) + 1);
    p->offsets = calloc(n_tokens + 1, sizeof *p->offsets);
    if (p->text && p->offsets)
        return 0;
    choice_piece_done(p);
    return -ENOMEM;
}

int choice_take(struct choice *c, struct choice_piece *ret)
{
    size_t limit = c->finish_reason ? c->raw_len : c->raw_len - n_held_back(c);
    struct choice_piece p = {.tokens = c->tokens ? c->tokens + c->n_tokens_taken : NULL};

    if (is_scoring(c))
        limit = c->taken;
    int r = allocate_piece(&p, limit > c->taken ? limit - c->taken : 0,
                           c->n_tokens - c->n_tokens_taken);
    if (r < 0)
        return r;
    while (c->taken < limit) {
        int n = utf8_first(c->raw + c->taken, limit - c->taken);
        if (n == UTF8_INCOMPLETE && !c->finish_reason)
            break;
        const char *character = n > 0 ? c->raw + c->taken : UTF8_REPLACEMENT;
        size_t len = n > 0 ? (size_t)n : strlen(UTF8_REPLACEMENT);
        memcpy(p.text + p.len, character, len);
        p.len += len;
        c->taken += n > 0 ? (size_t)n : 1;
        while (c->n_tokens_taken < c->n_tokens && c->tokens[c->n_tokens_taken].start < c->taken) {
            p.offsets[p.n_tokens++] = c->n_characters;
            c->n_tokens_taken++;
        }
        c->n_characters++;
    }
    *ret = p;
    return 0;
}

void choice_piece_done(struct choice_piece *p)
{
    free(p->text);
    free(p->offsets);
    *p = (struct choice_piece){0};
}
