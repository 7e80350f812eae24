/*
 * The texts are small and the request may be large, so the windows of the texts go into a table,
 * and each window of the request is looked up there once.
 */
#include "redact.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "json_reader.h"
#include "utf8.h"

enum {
    LEAST = 6,   /* shorter strings are words that any error may hold */
    WINDOW = 12, /* so many bytes in a row are no chance */
    KEY_BEGINNING = 8,
    NUMBERS = 8,
    TOTAL = 2 * REDACT_MAX + 2, /* as they are, and without escapes */
    SLOTS_LEAST = 256,
    PROBES_MAX = 256, /* not reached by chance */
    FOUND = 0x8000,
    PIECE = 4096,
    MODEL_MAX = 256,
    BETWEEN = 0xFF, /* texts; not in UTF-8 */
};

struct redact {
    uint64_t seed[2];
    size_t len; /* of the texts */
    size_t all; /* with their unescaped twins, which begin at REDACT_MAX + 1; or len */
    bool prepared, hide_all, has_numbers, has_windows[WINDOW + 1];
    char model[MODEL_MAX];
    size_t model_len;
    bool marks[TOTAL];
    uint16_t origin[TOTAL]; /* of a twin's byte: where it comes from, and where that ends */
    uint16_t origin_end[TOTAL];
    uint8_t data[TOTAL];
    /* Distinct windows, n_slots for each of their lengths: FOUND | where + 1, or 0. */
    uint16_t *slots;
    size_t n_slots; /* a power of two, twice the windows at least */
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

bool redact_has_hidden(const struct redact *r, size_t from, size_t to)
{
    for (; from < to; from++)
        if (r->marks[from])
            return true;
    return false;
}

void redact_show(struct redact *r, size_t from, size_t to)
{
    memset(r->marks + from, false, to - from);
}

/* ---- Escapes ---- */

static bool read_hex(const uint8_t *p, size_t n, uint32_t *ret)
{
    uint32_t value = 0;

    for (size_t i = 0; i < n; i++) {
        uint8_t c = p[i] | 0x20;
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return false;
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *ret = value;
    return true;
}

/* These return how many bytes the escape has, 0 if there is none. */

static size_t decode_backslash(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
    static const char from[] = "nrtbfva0\"'\\/", to[] = "\n\r\t\b\f\v\a\0\"'\\/";
    const char *simple = len > 1 && p[1] ? strchr(from, p[1]) : NULL;
    size_t n = len < 2 ? 0 : p[1] == 'x' ? 2 : p[1] == 'u' ? 4 : p[1] == 'U' ? 8 : 0;
    uint32_t c, low;

    if (simple) {
        out[0] = (uint8_t)to[simple - from];
        *ret_len = 1;
        return 2;
    }
    if (n == 0 || len < 2 + n || !read_hex(p + 2, n, &c))
        return 0;
    if (n == 2) {
        out[0] = (uint8_t)c;
        *ret_len = 1;
        return 4;
    }
    if (n == 4 && c >= 0xD800 && c < 0xDC00 && len >= 12 && p[6] == '\\' && p[7] == 'u' &&
        read_hex(p + 8, 4, &low) && low >= 0xDC00 && low < 0xE000) {
        *ret_len = utf8_encode(0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00), out);
        return 12;
    }
    *ret_len = utf8_encode(c, out);
    return 2 + n;
}

static size_t decode_entity(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
    static const struct {
        const char *name;
        char character;
    } entities[] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    size_t i = 2;
    uint32_t c = 0;

    for (size_t e = 0; e < sizeof entities / sizeof *entities; e++) {
        size_t n = strlen(entities[e].name);
        if (len >= n && memcmp(p, entities[e].name, n) == 0) {
            out[0] = (uint8_t)entities[e].character;
            *ret_len = 1;
            return n;
        }
    }
    if (len < 4 || p[1] != '#')
        return 0;
    bool is_hex = p[2] == 'x' || p[2] == 'X';
    for (i += is_hex; i < len && i < 10 && p[i] != ';'; i++) {
        uint32_t digit;
        if (!read_hex(p + i, 1, &digit) || (!is_hex && digit > 9))
            return 0;
        c = c * (is_hex ? 16 : 10) + digit;
    }
    if (i == len || p[i] != ';')
        return 0;
    *ret_len = utf8_encode(c, out);
    return i + 1;
}

static size_t decode_escape(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
    uint32_t c;

    if (*p == '\\')
        return decode_backslash(p, len, out, ret_len);
    if (*p == '&')
        return decode_entity(p, len, out, ret_len);
    if (*p != '%' || len < 3 || !read_hex(p + 1, 2, &c))
        return 0;
    out[0] = (uint8_t)c;
    *ret_len = 1;
    return 3;
}

/* Decoding never lengthens, so the twins have space. */
static void make_twins(struct redact *r)
{
    size_t to = REDACT_MAX + 1;
    bool any = false;

    for (size_t at = 0; at < r->len;) {
        uint8_t out[4] = {r->data[at]};
        size_t n_out = 1, n = decode_escape(r->data + at, r->len - at, out, &n_out);

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
    uint16_t *slots = r->slots + (len - LEAST) * r->n_slots;
    size_t h = window_hash(r, p, len);

    for (unsigned i = 0; i < PROBES_MAX; i++, h = (h + 1) & (r->n_slots - 1))
        if (!slots[h] || memcmp(r->data + (slots[h] & ~FOUND) - 1, p, len) == 0)
            return &slots[h];
    return NULL;
}

static void make_windows(struct redact *r, size_t len)
{
    if (r->has_windows[len])
        return;
    r->has_windows[len] = true;
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
    r->slots = calloc(r->n_slots * (WINDOW + 1 - LEAST), sizeof *r->slots);
    r->hide_all = !r->slots;
    return !r->hide_all;
}

/* ---- The request ---- */

static void look_for_long(struct redact *r, const uint8_t *text, size_t len)
{
    for (size_t i = 0; i + WINDOW <= len; i++)
        look_up(r, text + i, WINDOW);
}

static void look_for_whole(struct redact *r, const uint8_t *text, size_t len)
{
    if (len < LEAST)
        return;
    make_windows(r, len);
    look_up(r, text, len);
}

static bool is_high_surrogate(const char *end)
{
    return end[-6] == '\\' && end[-5] == 'u' && (end[-4] | 0x20) == 'd' &&
           strchr("89abAB", end[-3]) && end[-3];
}

/* How much of a string, in which there are escapes, can be decoded by itself. */
static size_t piece_length(const char *data, size_t len)
{
    size_t i = 0;

    while (i < len && (i < PIECE - 64 || (i < PIECE - 12 && is_high_surrogate(data + i))))
        i += data[i] != '\\' ? 1 : data[i + 1] == 'u' ? 6 : 2;
    return i;
}

static void look_for_string(struct redact *r, const struct json_string *s)
{
    uint8_t text[WINDOW - 1 + PIECE];
    size_t kept = 0;

    if (!s->has_escapes && s->len < WINDOW) {
        look_for_whole(r, (const uint8_t *)s->data, s->len);
        return;
    }
    if (!s->has_escapes) {
        look_for_long(r, (const uint8_t *)s->data, s->len);
        return;
    }
    for (size_t at = 0; at < s->len;) {
        struct json_string piece = *s;
        piece.data += at;
        piece.len = piece_length(piece.data, s->len - at);
        at += piece.len;
        size_t n = kept + json_string_decode(&piece, text + kept);
        if (piece.len == s->len && n < WINDOW)
            look_for_whole(r, text, n);
        look_for_long(r, text, n);
        kept = n < WINDOW - 1 ? n : WINDOW - 1;
        memmove(text, text + n - kept, kept);
    }
}

static void read_model(struct redact *r, struct json_reader *reader)
{
    struct json_string s;

    if (json_read_string(reader, &s) && s.len <= MODEL_MAX)
        r->model_len = json_string_decode(&s, r->model);
}

/* As deep as the reader goes. */
static void look_for_value(struct redact *r, struct json_reader *reader, bool is_top)
{
    struct json_string s;

    if (json_read_string(reader, &s)) {
        look_for_string(r, &s);
    } else if (json_enter_array(reader)) {
        while (json_next_element(reader)) {
            r->has_numbers |= json_peek(reader) == JSON_NUMBER;
            look_for_value(r, reader, false);
        }
    } else if (json_enter_object(reader)) {
        while (json_next_member(reader, &s)) {
            if (is_top && json_string_equals(&s, "model"))
                read_model(r, reader);
            else
                look_for_value(r, reader, false);
        }
    } else {
        json_skip(reader, NULL);
    }
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
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
        bool goes_on = is_digit(r->data[at]);

        while (goes_on) {
            for (end = at; end < r->len && is_digit(r->data[end]);)
                end++;
            n++;
            at = skip_between(r, end, &goes_on);
            goes_on = goes_on && at < r->len && is_digit(r->data[at]);
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

    if (r->model_len < LEAST)
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

void redact_request(struct redact *r, const uint8_t *json, size_t len)
{
    struct json_reader reader;

    if (len == 0 || r->len == 0 || !prepare(r))
        return;
    make_windows(r, WINDOW);
    json_reader_init(&reader, json, len);
    look_for_value(r, &reader, true);
    for (size_t n = LEAST; n <= WINDOW; n++)
        if (r->has_windows[n])
            mark_found(r, n);
    if (r->has_numbers)
        mark_numbers(r);
    settle_marks(r);
    show_model(r);
    /* What the twins have is in the texts now. */
    memset(r->marks + r->len, false, TOTAL - r->len);
}

/* ---- The key ---- */

static void mark_beginnings(struct redact *r, const char *secret, size_t len)
{
    size_t least = len < KEY_BEGINNING ? len : KEY_BEGINNING;
    const uint8_t *p = r->data, *end = p + r->all;

    while ((p = memmem(p, (size_t)(end - p), secret, least))) {
        size_t n = least;
        while (n < len && p + n < end && p[n] == (uint8_t)secret[n])
            n++;
        mark(r, (size_t)(p - r->data), (size_t)(p - r->data) + n);
        p += n;
    }
}

void redact_secret(struct redact *r, const char *secret)
{
    size_t len = secret ? strlen(secret) : 0;

    if (len == 0 || !prepare(r))
        return;
    mark_beginnings(r, secret, len);
    make_windows(r, WINDOW);
    /* The request's are settled. */
    for (size_t i = 0; i < r->n_slots; i++)
        r->slots[(WINDOW - LEAST) * r->n_slots + i] &= (uint16_t)~FOUND;
    look_for_long(r, (const uint8_t *)secret, len);
    mark_found(r, WINDOW);
    settle_marks(r);
}

bool redact_has_secret(const char *text, const char *secret)
{
    size_t len = strlen(text), secret_len = secret ? strlen(secret) : 0;

    if (secret_len == 0)
        return false;
    if (memmem(text, len, secret, secret_len < KEY_BEGINNING ? secret_len : KEY_BEGINNING))
        return true;
    for (size_t i = 0; i + WINDOW <= secret_len; i++)
        if (memmem(text, len, secret + i, WINDOW))
            return true;
    return false;
}
