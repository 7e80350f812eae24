/*
 * The texts are small and the request may be large, so the windows of the texts go into a table, in
 * which those of the request are looked up. Most are not there, which one look at every fifth byte
 * tells: whichever window is there has one of its anchors there.
 */
#include "redact_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "escape.h"
#include "utf8.h"

enum {
    KEY_BEGINNING = 8,
    NUMBERS = 8,
    SLOTS_LEAST = 256,
    PROBES_MAX = 256, /* not reached by chance */
    FOUND = 0x8000,
    ANCHOR = 8,
    STRIDE = REDACT_WINDOW - ANCHOR + 1, /* a window holds an anchor that begins at a multiple */
    BETWEEN = 0xFF,                      /* texts; not in UTF-8 */
};

struct redact *redact_new(void)
{
    struct redact *r = calloc(1, sizeof *r);
    const void *random = (const void *)getauxval(AT_RANDOM);

    /* Whoever knew the seed could write texts whose windows all share a slot. */
    if (r && random)
        memcpy(r->seed, random, sizeof r->seed);
    return r;
}

struct redact *redact_free(struct redact *r)
{
    if (r)
        free(r->slots);
    free(r);
    return NULL;
}

size_t redact_add(struct redact *r, const void *text, size_t len)
{
    size_t start = r->len;

    if (len > REDACT_MAX - 1 - start)
        len = utf8_truncate(text, len, REDACT_MAX - 1 - start);
    if (len > 0)
        memcpy(r->data + start, text, len);
    r->data[start + len] = BETWEEN;
    r->len = r->all = start + len + (start + len < REDACT_MAX - 1);
    return len;
}

size_t redact_end(const struct redact *r)
{
    return r->len;
}

const uint8_t *redact_text(const struct redact *r, size_t at)
{
    return r->data + at;
}

bool redact_is_hidden(const struct redact *r, size_t at)
{
    return r->hide_all || r->marks[at];
}

void redact_name(struct redact *r, size_t from, size_t to)
{
    r->name_from = from;
    r->name_to = to;
}

void redact_show(struct redact *r, size_t from, size_t to)
{
    memset(r->marks + from, false, to - from);
}

/* ---- Twins ---- */

/* Decoding never lengthens, so the twins have space. */
static void make_twins(struct redact *r)
{
    size_t to = REDACT_MAX + 1;
    bool any = false;

    for (size_t at = 0; at < r->len;) {
        uint8_t out[4] = {r->data[at]};
        size_t n_out = 1, n = escape_decode(r->data + at, r->len - at, out, &n_out);

        any |= n > 0;
        if (n == 0)
            n = n_out = 1;
        for (size_t i = 0; i < n_out; i++, to++) {
            r->data[to] = out[i];
            r->origin[to] = (uint16_t)at;
            r->origin_end[to] = (uint16_t)(at + n);
        }
        at += n;
    }
    if (any) {
        memset(r->data + r->len, BETWEEN, REDACT_MAX + 1 - r->len);
        r->all = to;
    }
}

/* ---- Windows ---- */

static inline size_t window_hash(const struct redact *r, const uint8_t *p, size_t len)
{
    uint64_t a = 0, b = 0;

    memcpy(&a, p, len < 8 ? len : 8);
    if (len > 8)
        memcpy(&b, p + 8, len - 8);
    __uint128_t product = (__uint128_t)(a ^ r->seed[0]) * (b ^ r->seed[1] ^ len << 48);
    return (size_t)((uint64_t)product ^ (uint64_t)(product >> 64)) & (r->n_slots - 1);
}

/* The slot of an equal window, or an empty one. NULL: too many are in the way. */
static inline uint16_t *find_slot(struct redact *r, const uint8_t *p, size_t len)
{
    uint16_t *slots = r->slots + (len - REDACT_LEAST) * r->n_slots;
    size_t h = window_hash(r, p, len);

    for (unsigned i = 0; i < PROBES_MAX; i++, h = (h + 1) & (r->n_slots - 1))
        if (!slots[h] || memcmp(r->data + (slots[h] & ~FOUND) - 1, p, len) == 0)
            return &slots[h];
    return NULL;
}

static inline unsigned anchor_bit(const struct redact *r, const uint8_t *p)
{
    uint64_t anchor;

    memcpy(&anchor, p, sizeof anchor);
    return (unsigned)((anchor * (r->seed[0] | 1)) >> (64 - REDACT_FILTER_BITS));
}

static inline bool may_be_anchor(const struct redact *r, const uint8_t *p)
{
    unsigned bit = anchor_bit(r, p);

    return r->filter[bit / 64] >> bit % 64 & 1;
}

static void make_filter(struct redact *r)
{
    for (size_t at = 0; at + ANCHOR <= r->all; at++) {
        unsigned bit = anchor_bit(r, r->data + at);
        r->filter[bit / 64] |= UINT64_C(1) << bit % 64;
    }
}

static void make_windows(struct redact *r, size_t len)
{
    if (r->has_windows[len])
        return;
    r->has_windows[len] = true;
    if (len == REDACT_WINDOW)
        make_filter(r);
    for (size_t at = 0; at + len <= r->all; at++) {
        uint16_t *slot = find_slot(r, r->data + at, len);
        if (!slot)
            r->hide_all = true; /* better than to spend time, or to show it */
        else if (!*slot)
            *slot = (uint16_t)(at + 1);
    }
}

static inline void look_up(struct redact *r, const uint8_t *p, size_t len)
{
    uint16_t *slot = find_slot(r, p, len);

    r->work += REDACT_WORK_STEP;
    if (!slot)
        r->hide_all = true;
    else if (*slot)
        *slot |= FOUND;
}

static void mark(struct redact *r, size_t from, size_t to)
{
    memset(r->marks + from, true, to - from);
}

static void mark_found(struct redact *r, size_t len)
{
    for (size_t at = 0; at + len <= r->all; at++) {
        const uint16_t *slot = find_slot(r, r->data + at, len);
        if (slot && *slot & FOUND)
            mark(r, at, at + len);
    }
}

/* From the twins to the texts, and to the edges of characters. */
static void settle_marks(struct redact *r)
{
    for (size_t at = REDACT_MAX + 1; at < r->all; at++)
        if (r->marks[at])
            mark(r, r->origin[at], r->origin_end[at]);
    for (size_t at = r->len; at-- > 1;)
        if (r->marks[at] && (r->data[at] & 0xC0) == 0x80)
            r->marks[at - 1] = true;
    for (size_t at = 1; at < r->len; at++)
        if (r->marks[at - 1] && (r->data[at] & 0xC0) == 0x80)
            r->marks[at] = true;
}

/* Once all texts are there. False: nothing can be told, so nothing is shown. */
static bool prepare(struct redact *r)
{
    if (r->prepared)
        return !r->hide_all;
    r->prepared = true;
    make_twins(r);
    r->n_slots = SLOTS_LEAST;
    while (r->n_slots < 2 * r->all)
        r->n_slots *= 2;
    r->slots = calloc(r->n_slots * (REDACT_WINDOW + 1 - REDACT_LEAST), sizeof *r->slots);
    r->hide_all = !r->slots;
    return !r->hide_all;
}

/* ---- The request ---- */

void redact_look_for_parts(struct redact *r, const uint8_t *text, size_t len)
{
    for (size_t at = 0; at + ANCHOR <= len && !redact_is_spent(r); at += STRIDE) {
        if (!may_be_anchor(r, text + at))
            continue;
        size_t from = at < STRIDE ? 0 : at - STRIDE + 1;
        /* Where it repeats itself, spaces for one, they have been looked up. */
        if (from >= STRIDE && at + REDACT_WINDOW <= len &&
            !memcmp(text + from, text + from - STRIDE, STRIDE - 1 + REDACT_WINDOW))
            continue;
        for (; from <= at && from + REDACT_WINDOW <= len; from++)
            look_up(r, text + from, REDACT_WINDOW);
    }
}

void redact_look_for_whole(struct redact *r, const uint8_t *text, size_t len)
{
    if (len < REDACT_LEAST)
        return;
    make_windows(r, len);
    look_up(r, text, len);
}

/* The end of what may stand between two numbers of a list; has_comma if it can only be a list. */
static size_t skip_between(const struct redact *r, size_t at, bool *ret_has_comma)
{
    *ret_has_comma = false;
    while (at < r->len && r->data[at] != '\0' && strchr(" \t\r\n,[]-", r->data[at]))
        *ret_has_comma |= r->data[at++] == ',';
    return at;
}

static void mark_numbers(struct redact *r)
{
    for (size_t at = 0; at < r->len;) {
        size_t start = at, end = at;
        unsigned n = 0;
        bool goes_on = redact_is_digit(r->data[at]);

        while (goes_on) {
            for (end = at; end < r->len && redact_is_digit(r->data[end]);)
                end++;
            n++;
            at = skip_between(r, end, &goes_on);
            goes_on = goes_on && at < r->len && redact_is_digit(r->data[at]);
        }
        if (n >= NUMBERS)
            mark(r, start, end);
        if (n == 0)
            at++;
    }
}

/* What is hidden, but is nothing else than (a part of) the model's name, is shown. */
static void show_model(struct redact *r)
{
    bool is_model[REDACT_MAX] = {false};
    const uint8_t *p = r->data, *end = r->data + r->len;

    if (r->model_len < REDACT_LEAST)
        return;
    while ((p = memmem(p, (size_t)(end - p), r->model, r->model_len))) {
        memset(is_model + (p - r->data), true, r->model_len);
        p += r->model_len;
    }
    for (size_t at = 0; at < r->len; at++) {
        size_t from = at;
        bool inside = true;
        while (at < r->len && r->marks[at])
            inside &= is_model[at++];
        if (inside)
            memset(r->marks + from, false, at - from);
    }
}

static void mark_all_found(struct redact *r)
{
    for (size_t n = REDACT_LEAST; n <= REDACT_WINDOW; n++)
        if (r->has_windows[n])
            mark_found(r, n);
    if (r->has_numbers)
        mark_numbers(r);
    settle_marks(r);
    show_model(r);
    /* What the twins have is in the texts now. */
    memset(r->marks + r->len, false, REDACT_TOTAL - r->len);
}

void redact_request(struct redact *r, const uint8_t *json, size_t len)
{
    if (len == 0 || r->len == 0 || !prepare(r))
        return;
    make_windows(r, REDACT_WINDOW);
    redact_look_for_request(r, json, json + len);
    if (redact_is_spent(r))
        mark(r, 0, r->len);
    else
        mark_all_found(r);
    if (r->is_parameter)
        redact_show(r, r->name_from, r->name_to);
}

/* ---- The key ---- */

/* What goes on for longer is found as a part. One may begin inside another. */
static void mark_beginnings(struct redact *r, const char *secret, size_t len)
{
    size_t least = len < KEY_BEGINNING ? len : KEY_BEGINNING;
    const uint8_t *p = r->data, *end = p + r->all;

    for (; (p = memmem(p, (size_t)(end - p), secret, least)); p++) {
        size_t n = least;
        while (n < len && n < REDACT_WINDOW && p + n < end && p[n] == (uint8_t)secret[n])
            n++;
        mark(r, (size_t)(p - r->data), (size_t)(p - r->data) + n);
    }
}

void redact_secret(struct redact *r, const char *secret)
{
    size_t len = secret ? strlen(secret) : 0;

    if (len == 0 || !prepare(r))
        return;
    mark_beginnings(r, secret, len);
    make_windows(r, REDACT_WINDOW);
    /* The request's are settled. */
    for (size_t i = 0; i < r->n_slots; i++)
        r->slots[(REDACT_WINDOW - REDACT_LEAST) * r->n_slots + i] &= (uint16_t)~FOUND;
    r->work = 0;
    redact_look_for_parts(r, (const uint8_t *)secret, len);
    mark_found(r, REDACT_WINDOW);
    settle_marks(r);
}

bool redact_has_secret(const char *text, const char *secret)
{
    size_t len = strlen(text), secret_len = secret ? strlen(secret) : 0;

    if (secret_len == 0)
        return false;
    if (memmem(text, len, secret, secret_len < KEY_BEGINNING ? secret_len : KEY_BEGINNING))
        return true;
    for (size_t i = 0; i + REDACT_WINDOW <= secret_len; i++)
        if (memmem(text, len, secret + i, REDACT_WINDOW))
            return true;
    return false;
}
